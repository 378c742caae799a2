"""Scores of single documents of many places, held against one set of documents.

What `same_documents` finds for two or more folders at once is found here a folder at a time, each
read once: a report of k methods compares each with the base model and with a baseline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl_bench.results.paired import entry_of, is_unmeasured, of_all_documents, paired_values
from cl_bench.results.same_documents import made_of
from cl_bench.scores.cells import Cell, unweighted_mean
from cl_bench.scores.uncertainty import Comparison, compare_differences, compare_unpaired
from cl_bench.store.folders import read_records, there
from cl_bench.store.seals import check_records, read_scores

Tasks = Mapping[str, Sequence[str]]
"""Leaf tasks of each stage task or benchmark."""
Values = Mapping[str, float]
"""By document (`leaf/doc_id`) or resample."""


@dataclass(frozen=True)
class Scoring:
    """One place: its `scores.json`, and what it has of documents that are the reference's."""

    scores: Mapping[str, Any]
    values: Mapping[str, Values] = field(default_factory=dict)
    """By task; tasks without records are missing."""
    own: Mapping[str, Values] = field(default_factory=dict)
    """Scores of single answers, where `values` are those of all documents together."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """By task how many documents are not those of the reference."""

    def cell(self, task: str) -> Cell | None:
        """The task's score; None where it is not measured."""
        entry = entry_of(self.scores, task)
        return None if entry.get("score") is None else Cell.from_json(entry)


class Reference:
    """The documents that places are held against: of every task those of the first place read."""

    def __init__(self) -> None:
        self._asked: dict[str, dict[Any, Any]] = {}
        self._rows: dict[str, str] = {}

    def scoring(self, place: Path, tasks: Tasks) -> Scoring:
        """What a place has of these tasks. Raises RunError where a file of it is damaged."""
        scores = read_scores(place)
        found = Scoring(scores, {}, {}, {})
        rows = made_of(place).get("data", {})
        for task, leaves in tasks.items():
            entry = entry_of(scores, task)
            files = [place / "predictions" / f"{leaf}.jsonl" for leaf in leaves]
            if "score" not in entry or is_unmeasured(entry) or not all(map(there, files)):
                continue
            check_records(place, scores, leaves)
            records = {file.stem: read_records(file) for file in files}
            other = {leaf: self._others(leaf, records[leaf], rows) for leaf in leaves}
            self._add(found, task, entry, records, other)
        return found

    def _others(self, leaf: str, records: Sequence[Mapping[str, Any]], rows: Any) -> set[Any]:
        """Documents of a leaf that are not the reference's; missing ones too."""
        asked = {r["doc_id"]: (r.get("prompt_hash"), r.get("target")) for r in records}
        ours = self._asked.setdefault(leaf, asked)
        other = {key for key, what in asked.items() if ours.get(key) != what}
        other |= ours.keys() - asked.keys()
        checksum = rows.get(leaf, {}).get("test")
        known = self._rows.setdefault(leaf, checksum) if checksum else checksum
        # Nothing that is recorded of a document differs: what does can be any of them.
        return asked.keys() | other if not other and checksum != known else other

    @staticmethod
    def _add(
        found: Any, task: str, entry: Any, records: Any, other: Mapping[str, set[Any]]
    ) -> None:
        differing = sum(map(len, other.values()))
        if differing:
            found.left_out[task] = differing
        if of_all_documents(entry):
            if not differing:
                found.values[task] = dict(paired_values(entry, records))
                own = ((leaf, r) for leaf, lines in records.items() for r in lines)
                found.own[task] = {
                    f"{leaf}/{r['doc_id']}": r["score"] for leaf, r in own if r["score"] is not None
                }
            return
        if differing:
            records = {
                leaf: [record for record in lines if record["doc_id"] not in other[leaf]]
                for leaf, lines in records.items()
            }
        if all(records.values()):  # a group without one of its members would be another score
            found.values[task] = dict(paired_values(entry, records))


@dataclass(frozen=True)
class Compared:
    """A difference of two methods, and whether it is over the same documents."""

    comparison: Comparison
    paired: bool


def compare(
    first: Sequence[Scoring], second: Sequence[Scoring], tasks: Iterable[str]
) -> Compared | None:
    """First minus second, the unweighted mean over tasks; one place a seed.

    Paired over documents where all sides have their records, seed by seed in order; `second` may be
    one place for all seeds (the base model). Else from standard errors alone, which is an upper
    bound of the error. None where a score is not measured, or where no document is the same.
    """
    names = list(tasks)
    cells = [[scoring.cell(task) for task in names] for scoring in (*first, *second)]
    if not names or not first or not second or any(None in row for row in cells):
        return None
    others = list(second) * len(first) if len(second) == 1 else list(second)
    sides = [*first, *others]
    if all(task in side.values for side in sides for task in names):
        found = {task: _differences(first, others, task) for task in names}
        return Compared(compare_differences(found), True) if all(found.values()) else None
    if any(task in side.left_out for side in sides for task in names):
        return None
    rows = [unweighted_mean(cell for cell in row if cell is not None) for row in cells]
    measures = [(row.score, row.stderr) for row in rows]
    return Compared(compare_unpaired(measures[: len(first)], measures[len(first) :]), False)


def _differences(
    first: Sequence[Scoring], second: Sequence[Scoring], task: str
) -> list[list[float]]:
    """By seed, over the documents that all have; empty where there are none.

    Scaled where members of a group have unequal numbers of documents, so that the mean over
    documents is the unweighted mean over members that the score is.
    """
    sides = [(a.values[task], b.values[task]) for a, b in zip(first, second, strict=True)]
    keys = list(sides[0][0])
    if any(side.keys() != sides[0][0].keys() for pair in sides for side in pair):
        keys = [key for key in keys if all(key in side for pair in sides for side in pair)]
    if not keys:
        return []
    found = [[a[key] - b[key] for key in keys] for a, b in sides]
    leaves = [key.rpartition("/")[0] for key in keys]
    sizes = Counter(leaves)
    if len(set(sizes.values())) == 1:
        return found
    even = len(keys) / len(sizes)
    return [
        [value * even / sizes[leaf] for leaf, value in zip(leaves, seed, strict=True)]
        for seed in found
    ]


def changed(
    first: Sequence[Scoring], second: Sequence[Scoring], tasks: Iterable[str]
) -> tuple[float, float] | None:
    """How many documents have a lower and how many a higher score in `first`: means over seeds.

    None without records of both.
    """
    lower = higher = 0
    others = list(second) * len(first) if len(second) == 1 else list(second)
    for a, b in zip(first, others, strict=True):
        for task in tasks:
            ours, theirs = (side.own.get(task, side.values.get(task)) for side in (a, b))
            if ours is None or theirs is None:
                return None
            lower += sum(value < theirs[key] for key, value in ours.items() if key in theirs)
            higher += sum(value > theirs[key] for key, value in ours.items() if key in theirs)
    return lower / len(first), higher / len(first)
