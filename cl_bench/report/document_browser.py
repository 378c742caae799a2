"""Single documents of a report's runs: what was asked, what is right, what each stage answered.

What `predictions/` hold, for a page in which two stages are compared. Texts are kept once each and
named by number. What is too much for a page is left out, and said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl_bench.report.cells import short
from cl_bench.report.diff_documents import visible
from cl_bench.report.tables import code
from cl_bench.results.compare import Key
from cl_bench.results.groups import Opened
from cl_bench.results.same_documents import made_of
from cl_bench.results.shown_documents import Wording
from cl_bench.scores.general import leaves
from cl_bench.store.folders import read_records, stage_number, there
from cl_bench.store.seals import read_scores

DOCUMENTS = 100
"""Of a task at most."""
FEWEST = 5
ANSWERS = 100_000
"""Of all documents at all places; more places have fewer documents each."""
CHARACTERS = 1500
"""Of an answer; of a prompt twice as many."""
ROOM, SHORT = 20_000_000, 200
"""When all texts together have so many characters, the others are cut to so many each."""

Record = Mapping[str, Any]
Ids = Mapping[str, Sequence[int]]
Reading = Callable[[Path, Ids], tuple[Mapping[Key, Wording], Mapping[str, str]]]
"""From a scored folder and ids by leaf task: their words, and why some are not there."""


@dataclass
class _Texts:
    """Every text once, cut where it is long, with nothing in it that cannot be seen."""

    numbers: dict[str, int] = field(default_factory=dict)
    characters: int = 0

    def add(self, text: str, most: int = CHARACTERS) -> int:
        most = SHORT if self.characters > ROOM else most
        if len(text) > most:
            first, last = text[: most // 2], text[-(most - most // 2) :]
            text = f"{first}\n[... {len(text) - most:,} characters ...]\n{last}"
        text = visible(text)
        if text not in self.numbers:
            self.characters += len(text)
        return self.numbers.setdefault(text, len(self.numbers))


@dataclass(frozen=True)
class _Run:
    name: str
    places: Sequence[int]
    """Numbers of its places, the base model's first."""
    own: Mapping[str, int]
    """By task the place right after its own stage."""


@dataclass
class _Places:
    """Folders with records, and what they are called."""

    paths: list[Path]
    names: list[str]
    runs: list[_Run] = field(default_factory=list)


@dataclass(frozen=True)
class _Task:
    """A stage task or benchmark, with the documents of it that are shown."""

    name: str
    own: Sequence[int]
    """By run the place right after its own stage, else the base model's."""
    total: int
    kept: Sequence[Key]
    sides: Sequence[Mapping[Key, Record]]
    """By place."""


def document_browser(opened: Sequence[Opened], read: Reading | None = None) -> dict[str, Any]:
    """Plain values for `pages/report.js`; without `read` documents have no words.

    Raises RunError where a file cannot be read.
    """
    found = [(e, _places(e)) for e in opened if (e.folder / "base/predictions").is_dir()]
    number = sum(len(_tasks(each)) * len(places.paths) for each, places in found)
    most = max(FEWEST, min(DOCUMENTS, ANSWERS // max(1, number)))
    texts = _Texts()
    notes: list[str] = []
    experiments = []
    for each, places in found:
        tasks = [_task(name, own, places, most) for name, own in _tasks(each).items()]
        words: Mapping[Key, Wording] = {}
        if read is not None:
            words, missing = read(each.folder / "base", _ids(tasks))
            notes += [f"{code(k)}: its words cannot be shown: {why}." for k, why in missing.items()]
        experiments.append(_experiment(each, places, tasks, texts, words))
    first = list(_first_notes(experiments, most, read is not None))
    return {"experiments": experiments, "texts": list(texts.numbers), "notes": [*first, *notes]}


def _first_notes(experiments: Sequence[Record], most: int, worded: bool) -> Iterator[str]:
    tasks = [task for each in experiments for task in each["tasks"]]
    if any(task["total"] > len(task["documents"]) for task in tasks):
        yield (
            f"At most {most} documents of a task stand in this file: first those that score less "
            "after the last stage than before in most runs, then those that score more. "
            "`cl-bench diff A B --html FILE` has all that changed."
        )
    if not worded:
        yield (
            "Documents are named by task and number. `--texts` reads their words from the data, "
            "for the records do not hold them."
        )


def _ids(tasks: Sequence[_Task]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for task in tasks:
        for leaf, document in task.kept:
            found.setdefault(leaf, []).append(document)
    return found


def _tasks(opened: Opened) -> dict[str, Sequence[str]]:
    """Leaf tasks of every stage task and benchmark of which the base model has records."""
    named = {task: [task] for task in opened.base["trace"]} | leaves(opened.base["general"])
    folder = opened.folder / "base/predictions"
    return {
        task: own for task, own in named.items() if all(there(folder / f"{o}.jsonl") for o in own)
    }


def _places(opened: Opened) -> _Places:
    found = _Places([opened.folder / "base"], ["base"])
    for result in opened.results:
        for run in result.runs:
            name = f"{result.label}, {run.path.name.replace('-', ' ')}"
            numbers, own = [0], dict[str, int]()
            for stage in run.stages():
                if not (stage.scored and (stage.path / "predictions").is_dir()):
                    continue
                numbers.append(len(found.paths))
                task = read_scores(stage.path)["task"]
                tasks = [task] if isinstance(task, str) else task
                own |= dict.fromkeys(tasks, len(found.paths))
                found.paths.append(stage.path)
                number = stage_number(stage.path.name)
                found.names.append(f"stage {number}: {', '.join(map(short, tasks))}")
            found.runs.append(_Run(name, numbers, own))
    for row in opened.in_context:
        for path in (path for path in row.places if (path / "predictions").is_dir()):
            found.runs.append(
                _Run(f"{row.label}, {path.name.replace('-', ' ')}", [0, len(found.paths)], {})
            )
            found.paths.append(path)
            found.names.append("base with worked examples")
    return found


def _task(name: str, own: Sequence[str], places: _Places, most: int) -> _Task:
    sides = _records(places, own)
    keys = _most_telling(sides, places, name)
    kept = keys[:most]
    cut = [{key: side[key] for key in kept if key in side} for side in sides]
    return _Task(name, [run.own.get(name, 0) for run in places.runs], len(keys), kept, cut)


def _experiment(
    opened: Opened,
    places: _Places,
    tasks: Sequence[_Task],
    texts: _Texts,
    words: Mapping[Key, Wording],
) -> dict[str, Any]:
    return {
        "name": opened.name,
        "places": places.names,
        "runs": [{"name": run.name, "places": list(run.places)} for run in places.runs],
        "tasks": [
            {
                "name": short(task.name),
                "kind": "stage task" if task.name in opened.base["trace"] else "General",
                "total": task.total,
                "own": list(task.own),
                "documents": [
                    _document(key, task.sides[0][key], texts, words.get(key)) for key in task.kept
                ],
            }
            for task in tasks
        ],
        "answers": [[_answers(side, task.kept, texts) for side in task.sides] for task in tasks],
    }


def _records(places: _Places, own: Sequence[str]) -> list[dict[Key, Record]]:
    """At every place, of those documents that were asked as the base model was; {} where none."""
    rows = [made_of(path).get("data", {}) for path in places.paths]
    found: list[dict[Key, Record]] = []
    for path, made in zip(places.paths, rows, strict=True):
        side: dict[Key, Record] = {}
        for leaf in own:
            file = path / "predictions" / f"{leaf}.jsonl"
            if not there(file):
                continue
            checksums = {each.get(leaf, {}).get("test") for each in (made, rows[0])} - {None}
            if len(checksums) > 1:
                continue  # other rows: nothing says which documents are the same
            side |= {(leaf, record["doc_id"]): record for record in read_records(file)}
        if found:
            first = found[0]
            side = {k: r for k, r in side.items() if k in first and _same(r, first[k])}
        found.append(side)
    return found


def _same(first: Record, second: Record) -> bool:
    return all(first.get(key) == second.get(key) for key in ("prompt_hash", "target"))


def _most_telling(sides: Sequence[Mapping[Key, Record]], places: _Places, task: str) -> list[Key]:
    """Documents that fell in most runs first, then those that rose, then in their order."""

    def changes(key: Key) -> tuple[int, int]:
        fell = rose = 0
        for run in places.runs:
            before, after = sides[run.own.get(task, 0)].get(key), sides[run.places[-1]].get(key)
            if before and after and before["score"] is not None and after["score"] is not None:
                fell += after["score"] < before["score"]
                rose += after["score"] > before["score"]
        return -fell, -rose

    return sorted(sides[0], key=changes)


def _document(key: Key, record: Record, texts: _Texts, words: Wording | None) -> list[Any]:
    """Leaf, number, reference and, where they are known, prompt and choices."""
    target = record.get("target")
    gold = target if isinstance(target, str) else json.dumps(target, ensure_ascii=False)
    if words is None:
        return [*key, texts.add(gold)]
    if words.gold is not None:
        number = words.gold_choice
        gold = words.gold if number is None else f"{number}: {words.gold}"
    choices = [texts.add(choice) for choice in words.choices]
    return [*key, texts.add(gold), texts.add(words.question, 2 * CHARACTERS), choices]


def _answers(side: Mapping[Key, Record], kept: Sequence[Key], texts: _Texts) -> list[Any] | None:
    """Score, text and choice of each document, None of those that are not there."""
    if not side:
        return None
    return [_answer(side[key], texts) if key in side else None for key in kept]


def _answer(record: Record, texts: _Texts) -> list[Any]:
    if "prediction" in record:
        return [record["score"], texts.add(str(record["prediction"]))]
    values = record.get("loglikelihoods") or []
    said = ", ".join("-" if value is None else f"{value:.2f}" for value in values)
    text = f"log-likelihoods {said}" if said else str(record.get("not_measured", ""))
    return [record["score"], texts.add(text), record.get("choice")]
