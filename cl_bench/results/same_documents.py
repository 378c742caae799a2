"""Which documents of several scorings are the same, so that their scores may be paired.

A document is known by its leaf task and number, and by what was asked: the hash of its prompt and
its target. Fields that neither shows (the wrong choices of a question) are in the checksum of all
rows that a run records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.identity.bindings import of_record
from cl_bench.identity.differences import data_differences
from cl_bench.scores.uncertainty import Documents
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import RunFolder, read_records, sha256_of, there
from cl_bench.store.seals import read_scores

Read = Callable[[Path], Documents]
"""Values by task in a `predictions` folder, each document as `leaf/doc_id`."""
Names = Mapping[str, Sequence[str]]
"""Leaf tasks of each task or benchmark."""


@dataclass(frozen=True)
class Paired:
    """What all sides have of each task, and how many documents are left out of it."""

    sides: list[Documents]
    left_out: Mapping[str, int]


def pair(folders: Sequence[Path], read: Read, names: Names) -> Paired | None:
    """The documents that are the same in all `predictions` folders; None unless all have the tasks.

    `names` gives the leaves of each task. Tasks that share no document are left out as a whole, and
    so are those of which one differs and whose score is a number of all documents together.
    """
    values = [read(folder) for folder in folders]
    tasks = list(values[0])
    if not tasks or any(set(side) != set(tasks) for side in values):
        return None
    asked = [Asked(folder) for folder in folders]
    others = _other_rows(folders)
    sides: list[dict[str, list[tuple[Any, float]]]] = [{} for _ in folders]
    left_out: dict[str, int] = {}
    for task in tasks:
        found = [dict(side[task]) for side in values]
        every = dict.fromkeys(key for side in found for key in side)
        if not any(_leaf(key) in names[task] for key in every):  # resamples of all documents
            differing = _differing(names[task], asked, others)
            if differing:
                left_out[task] = differing
            else:
                for side, known in zip(sides, found, strict=True):
                    side[task] = list(known.items())
            continue
        same = [key for key in every if _same(key, found, asked)]
        if all(key in side for key in every for side in found) and len(same) == len(every):
            # Nothing that is recorded of a document differs: what does can be any of them.
            same = [key for key in same if _leaf(key) not in others]
        if len(same) < len(every):
            left_out[task] = len(every) - len(same)
        if same:
            for side, known in zip(sides, found, strict=True):
                side[task] = [(key, known[key]) for key in same]
    return Paired(list(sides), left_out)


def _differing(leaves: Iterable[str], asked: Sequence[Asked], others: set[str]) -> int:
    """How many documents of the leaves are not the same on all sides."""
    count = 0
    for leaf in leaves:
        sides = [side.all(leaf) for side in asked]
        every = dict.fromkeys(key for side in sides for key in side)
        differing = [key for key in every if len({side.get(key) for side in sides}) > 1]
        count += len(differing) or (len(every) if leaf in others else 0)
    return count


def _same(key: str, found: Sequence[Mapping[str, float]], asked: Sequence[Asked]) -> bool:
    if any(key not in side for side in found):
        return False
    return len({side.of(key) for side in asked}) == 1


def _leaf(key: str) -> str:
    return key.rpartition("/")[0]


class Asked:
    """What the documents in a `predictions` folder are; each file is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, dict[str, str]] = {}

    def of(self, key: str) -> str | None:
        """A checksum of the document's prompt and target; None without its record."""
        return self.all(_leaf(key)).get(key)

    def all(self, leaf: str) -> Mapping[str, str]:
        """Of all documents of a leaf task."""
        if leaf not in self.known:
            file = self.folder / f"{leaf}.jsonl"
            records = read_records(file) if there(file) else []
            self.known[leaf] = {
                f"{leaf}/{record['doc_id']}": sha256_of(
                    [record.get("prompt_hash"), record.get("target")]
                )
                for record in records
            }
        return self.known[leaf]


def made_of(place: Path) -> dict[str, Any]:
    """What is recorded of the contents that a scored folder was made of; of old ones nothing."""
    scores, run = place / "scores.json", place.parent / "run.json"
    found = of_record(read_scores(place)) if there(scores) else {}
    return found or (of_record(read_run(run)) if there(run) else {})


def _other_rows(folders: Sequence[Path]) -> set[str]:
    """Leaf tasks of which two sides record other rows."""
    records = [made_of(folder.parent).get("data", {}) for folder in folders]
    return {
        leaf
        for leaf in records[0]
        if len({side[leaf]["test"] for side in records if "test" in side.get(leaf, {})}) > 1
    }


def left_out_line(left_out: Mapping[str, int]) -> str | None:
    """What a report says under differences that not all documents take part in."""
    if not left_out:
        return None
    counts = ", ".join(f"{task} {count}" for task, count in left_out.items())
    return (
        f"Left out, because they are not the same documents on both sides (another prompt, target "
        f"or row, or missing on one): {counts}."
    )


def other_data(experiment: Path, runs: Sequence[RunFolder]) -> Iterator[str]:
    """A line for every difference between the data that the runs of one experiment record.

    `run` refuses such folders now; older versions did not.
    """
    places = [(folder.path, f"{folder.path.parent.name}/{folder.path.name}") for folder in runs]
    records = [(who, of_record(read_run(path / "run.json"))) for path, who in places]
    base = experiment / "base"
    if there(base / "scores.json") and (record := of_record(read_scores(base))):
        records.insert(0, ("base", record))
    first, *others = records or [("", {})]
    for who, record in others:
        for text in data_differences(first[1], record):
            yield f"{text} in {who} than in {first[0]}"


def mixed_prompts(experiment: Path, run: RunFolder) -> dict[str, int]:
    """Documents by leaf task that a stage was asked otherwise than the base model.

    Of folders of older versions: later ones are bound to their data.
    """
    base = Asked(experiment / "base" / "predictions")
    found: dict[str, set[str]] = {}
    for stage in run.stages():
        asked = Asked(stage.path / "predictions")
        for file in (stage.path / "predictions").glob("*.jsonl"):
            leaf = file.name.removesuffix(".jsonl")
            if leaf.endswith(".probes"):
                continue
            for key, mark in asked.all(leaf).items():
                if base.of(key) not in (None, mark):
                    found.setdefault(leaf, set()).add(key)
    return {leaf: len(keys) for leaf, keys in found.items()}
