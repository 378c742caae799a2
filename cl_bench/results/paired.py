"""What two scorings are compared by: values of single documents, or of resamples of them all.

A metric of all documents together has no value per document. Its values over resamples, drawn alike
for every model (`evaluation.aggregates`), take their place: shifted and stretched so that their
mean is the score and the standard error of that mean is the bootstrap's. Differences of two models
are then paired over the same resampled documents.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Any

from cl_bench.metrics.score_kinds import lies_between
from cl_bench.scores.uncertainty import mean
from cl_bench.store.folders import sha256_of

Entry = Mapping[str, Any]
Records = Mapping[str, Sequence[Mapping[str, Any]]]
"""Lines of `predictions/<leaf>.jsonl` by leaf."""


def entry_of(scores: Mapping[str, Any], name: str) -> Entry:
    """What `scores.json` has of a stage task, a benchmark or a group's member; empty if nothing."""
    parts = [scores.get("trace", {}), scores.get("general", {})]
    found = next((part[name] for part in parts if isinstance(part.get(name), Mapping)), None)
    if found is None:
        groups = [entry.get("members") or {} for part in parts for entry in _entries(part)]
        found = next((members[name] for members in groups if name in members), None)
    entry: Entry = found or {}
    return entry


def of_all_documents(entry: Entry) -> bool:
    """Whether the score, or that of a member, is a number of all documents together."""
    members = [member or {} for member in entry.get("members", {}).values()]
    return any(each.get("aggregation", "mean") != "mean" for each in members or [entry])


def is_unmeasured(entry: Entry) -> bool:
    """Whether an entry of `scores.json` is there without a score."""
    return "score" in entry and entry["score"] is None


def graded(task: str, entries: Iterable[Entry], values: Iterable[float | None]) -> bool:
    """Whether scores of the task's documents may lie between right and wrong.

    As the recorded metric has it; by their `values` in scores of old, which do not name it.
    """
    told = [lies_between(task, entry) for entry in entries]
    if None not in told:
        return any(told)
    return any(value not in (0, 1, None) for value in values)


def paired_values(entry: Entry, records: Records) -> list[tuple[str, float]]:
    """(key, value) to compare a scoring by: of every document, or of every resample.

    A single value, whose error is not known, where a metric of all documents has no resamples.
    Nothing where the entry is not measured.
    """
    if is_unmeasured(entry):
        return []
    if not of_all_documents(entry):
        return [
            (f"{leaf}/{record['doc_id']}", record["score"])
            for leaf, lines in records.items()
            for record in lines
        ]
    same = sha256_of([[leaf, [r["doc_id"] for r in lines]] for leaf, lines in records.items()])
    drawn = _resamples(entry, records)
    if len(drawn) < 2:
        return [(f"{same}/all", entry["score"])]
    centre, stretch = mean(drawn), sqrt(len(drawn))
    return [
        (f"{same}/resample {number}", entry["score"] + (value - centre) * stretch)
        for number, value in enumerate(drawn)
    ]


def _resamples(entry: Entry, records: Records) -> list[float]:
    """Of a task, or the mean over a group's members of theirs."""
    if "members" not in entry:
        return list(entry.get("resamples", ()))
    members = entry["members"]
    known = [len(m.get("resamples", ())) for m in members.values() if of_all_documents(m)]
    drawn = [
        list(member.get("resamples", ()))
        if of_all_documents(member)
        else _means(leaf, [record["score"] for record in records.get(leaf, ())], min(known))
        for leaf, member in members.items()
    ]
    return [mean(values) for values in zip(*drawn, strict=False)]


def _means(name: str, scores: Sequence[float], count: int) -> list[float]:
    if not scores:
        return []
    draws = (random.Random(f"{name}/{number}") for number in range(count))
    return [mean(draw.choices(scores, k=len(scores))) for draw in draws]


def _entries(part: Mapping[str, Any]) -> list[Entry]:
    return [entry for entry in part.values() if isinstance(entry, Mapping)]
