"""Which documents of several scorings are the same, so that their scores may be paired.

A document is known by its leaf task and number, and by what was asked: the hash of its prompt and
its target. Fields that neither shows (the wrong choices of a question) are in the checksum of all
rows that a run records. `differences` decides it, for `diff`, for reports and for probes alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cl_bench.evaluation.probes.records import PROBES
from cl_bench.identity.bindings import of_record
from cl_bench.identity.differences import data_differences
from cl_bench.scores.uncertainty import Documents
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import RunFolder, read_records, there
from cl_bench.store.seals import read_scores

Read = Callable[[Path], Documents]
"""Values by task in a `predictions` folder, each document as `leaf/doc_id`."""
Names = Mapping[str, Sequence[str]]
"""Leaf tasks of each task or benchmark."""
Lines = Mapping[str, Iterable[Mapping[str, Any]]]
"""Those of `predictions/<leaf>.jsonl` by leaf."""
OTHER_ROWS = "with other rows"
"""Of documents with equal prompts and targets whose other fields differ in one of them at least."""
_ASKED = ("with another prompt", "with another target")


@dataclass(frozen=True)
class Asked:
    """What a scoring was asked of one leaf task."""

    documents: Mapping[Any, tuple[Any, Any]]
    """Hash of the prompt, and target, by the document's number."""
    rows: str | None = None
    """Checksum of all fields of all its rows; None where no version recorded it."""


def asked(place: Path, leaves: Iterable[str], known: Lines | None = None) -> dict[str, Asked]:
    """Of a scored folder, by leaf; `known` are the lines of its prediction files, if read."""
    rows = made_of(place).get("data", {})
    found = {}
    for leaf in leaves:
        if known is None:
            file = place / "predictions" / f"{leaf}.jsonl"
            lines: Iterable[Mapping[str, Any]] = read_records(file) if there(file) else ()
        else:
            lines = known[leaf]
        documents = {
            line["doc_id"]: (line.get("prompt_hash"), line.get("target")) for line in lines
        }
        found[leaf] = Asked(documents, rows.get(leaf, {}).get("test"))
    return found


def differences(first: Asked, second: Asked) -> dict[str, list[Any]]:
    """Numbers of the documents that are not the same, by what differs; empty where all are.

    Where nothing that is recorded of a document differs but the rows do, it can be any of them.
    """
    ours, theirs = first.documents, second.documents
    both = [key for key in ours if key in theirs]
    kinds = {
        "only in A": [key for key in ours if key not in theirs],
        "only in B": [key for key in theirs if key not in ours],
        **{
            kind: [key for key in both if ours[key][part] != theirs[key][part]]
            for part, kind in enumerate(_ASKED)
        },
    }
    found = {kind: keys for kind, keys in kinds.items() if keys}
    if not found and None not in (first.rows, second.rows) and first.rows != second.rows:
        return {OTHER_ROWS: both}
    return found


class Reference:
    """The documents that scorings are held against: of every leaf those of the first one read."""

    def __init__(self) -> None:
        self._leaves: dict[str, Asked] = {}

    def others(
        self, place: Path, leaves: Iterable[str], known: Lines | None = None
    ) -> dict[str, set[Any]]:
        """By leaf the numbers of documents that are not the reference's; missing ones too."""
        found = {}
        for leaf, theirs in asked(place, leaves, known).items():
            ours = self._leaves.setdefault(leaf, theirs)
            if ours.rows is None:
                self._leaves[leaf] = replace(ours, rows=theirs.rows)
            kinds = differences(ours, theirs)
            found[leaf] = {document for documents in kinds.values() for document in documents}
        return found


@dataclass(frozen=True)
class Paired:
    """What all sides have of each task, and how many documents are left out of it."""

    sides: list[Documents]
    left_out: Mapping[str, int]


def pair(folders: Sequence[Path], read: Read, names: Names) -> Paired | None:
    """Values of the documents that are the same in all `predictions` folders.

    `names` gives the leaves of each task. Tasks that share no document are left out as a whole.
    None unless all have the tasks.
    """
    values = [read(folder) for folder in folders]
    tasks = list(values[0])
    if not tasks or any(set(side) != set(tasks) for side in values):
        return None
    reference = Reference()
    sides: list[dict[str, list[tuple[Any, float]]]] = [{} for _ in folders]
    left_out: dict[str, int] = {}
    for task in tasks:
        other = {
            f"{leaf}/{document}"
            for folder in folders
            for leaf, documents in reference.others(folder.parent, names[task]).items()
            for document in documents
        }
        found = [dict(side[task]) for side in values]
        every = dict.fromkeys(key for side in found for key in side)
        same = [key for key in every if key not in other and all(key in side for side in found)]
        if len(same) < len(every):
            left_out[task] = len(every) - len(same)
        if same:
            for side, known in zip(sides, found, strict=True):
                side[task] = [(key, known[key]) for key in same]
    return Paired(list(sides), left_out)


def made_of(place: Path) -> dict[str, Any]:
    """What is recorded of the contents that a scored folder was made of; of old ones nothing."""
    scores, run = place / "scores.json", place.parent / "run.json"
    found = of_record(read_scores(place)) if there(scores) else {}
    return found or (of_record(read_run(run)) if there(run) else {})


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
    found: dict[str, set[Any]] = {}
    for stage in run.stages():
        files = (file.name for file in (stage.path / "predictions").glob("*.jsonl"))
        leaves = [name.removesuffix(".jsonl") for name in files if not name.endswith(PROBES)]
        ours, theirs = (asked(place, leaves) for place in (experiment / "base", stage.path))
        for leaf in leaves:
            kinds = differences(ours[leaf], theirs[leaf])
            if documents := {each for kind in _ASKED for each in kinds.get(kind, ())}:
                found.setdefault(leaf, set()).update(documents)
    return {leaf: len(documents) for leaf, documents in found.items()}
