"""Scores of single documents of many places, held against one set of documents.

Each place is read once: a report of k methods compares each with the base model and a baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cl_bench.results.paired import entry_of, graded, is_unmeasured, of_all_documents, paired_values
from cl_bench.results.same_documents import Reference
from cl_bench.scores.cells import Cell, unweighted_mean
from cl_bench.scores.paired_changes import Stratum, compare_tasks, strata_of
from cl_bench.scores.uncertainty import Comparison, compare_unpaired, mean
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


def read_scoring(reference: Reference, place: Path, tasks: Tasks) -> Scoring:
    """What a place has of these tasks and of the reference's documents.

    Raises RunError where a file of it is damaged.
    """
    scores = read_scores(place)
    found = Scoring(scores, {}, {}, {})
    for task, leaves in tasks.items():
        entry = entry_of(scores, task)
        files = [place / "predictions" / f"{leaf}.jsonl" for leaf in leaves]
        if "score" not in entry or is_unmeasured(entry) or not all(map(there, files)):
            continue
        check_records(place, scores, leaves)
        records = {file.stem: read_records(file) for file in files}
        _add(found, task, entry, records, reference.others(place, leaves, records))
    return found


def _add(found: Any, task: str, entry: Any, records: Any, other: Mapping[str, set[Any]]) -> None:
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

    Paired over documents where all sides have their records, seed by seed in order, by the test of
    `diff`; `second` may be one place for all seeds (the base model). Else from standard errors
    alone, which is an upper bound of the error. None where a score is not measured, or where no
    document is the same.
    """
    names = list(tasks)
    cells = [[scoring.cell(task) for task in names] for scoring in (*first, *second)]
    if not names or not first or not second or any(None in row for row in cells):
        return None
    others = list(second) * len(first) if len(second) == 1 else list(second)
    sides = [*first, *others]
    if all(task in side.values for side in sides for task in names):
        found = [_differences(first, others, task) for task in names]
        if not all(each.n for each in found):
            return None
        strata = {each.task: each.strata() for each in found}
        seeds = [mean(seed) for seed in zip(*(each.by_seed() for each in found), strict=True)]
        sizes = {each.task: each.n for each in found}
        return Compared(replace(compare_tasks(strata, seeds), n=sizes), True)
    if any(task in side.left_out for side in sides for task in names):
        return None
    rows = [unweighted_mean(cell for cell in row if cell is not None) for row in cells]
    measures = [(row.score, row.stderr) for row in rows]
    return Compared(compare_unpaired(measures[: len(first)], measures[len(first) :]), False)


@dataclass(frozen=True)
class _Differences:
    """Of one task, first minus second, by member and seed."""

    task: str
    n: int
    members: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]
    """A pair (second, first) of documents' scores a seed."""
    graded: bool

    def strata(self) -> dict[str, Stratum]:
        """By member; over several seeds of each document's mean."""
        if all(len(seeds) == 1 for seeds in self.members.values()):
            return strata_of({name: seeds[0] for name, seeds in self.members.items()}, self.graded)
        means = {}
        for name, seeds in self.members.items():
            before, after = (
                [mean(document) for document in zip(*side, strict=True)]
                for side in zip(*seeds, strict=True)
            )
            means[name] = (before, after)
        return strata_of(means, graded=True)

    def by_seed(self) -> list[float]:
        """The difference of each seed: the unweighted mean over members."""
        members = [
            [mean(after) - mean(before) for before, after in seeds]
            for seeds in self.members.values()
        ]
        return [mean(seed) for seed in zip(*members, strict=True)]


def _differences(first: Sequence[Scoring], second: Sequence[Scoring], task: str) -> _Differences:
    """Over the documents that all have. Resamples of all documents are one member."""
    sides = [(b.values[task], a.values[task]) for a, b in zip(first, second, strict=True)]
    every = [side for pair in sides for side in pair]
    keys = [key for key in every[0] if all(key in side for side in every)]
    entries = [entry_of(scoring.scores, task) for scoring in (*first, *second)]
    members: dict[str, list[str]] = {}
    for key in keys:
        members.setdefault(key.rpartition("/")[0], []).append(key)
    return _Differences(
        task,
        len(keys),
        {
            name: [([b[key] for key in own], [a[key] for key in own]) for b, a in sides]
            for name, own in members.items()
        },
        any(map(of_all_documents, entries))
        or graded(task, entries, (v for side in every for v in side.values())),
    )


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
