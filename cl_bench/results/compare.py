"""Two scorings of the same documents: what was forgotten and learned, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cl_bench.errors import UserError, nearest
from cl_bench.models.contents import names
from cl_bench.results.guessing import choices_of, expected_flips
from cl_bench.results.paired import graded, is_unmeasured, of_all_documents, paired_values
from cl_bench.results.places import Place, Records
from cl_bench.results.same_documents import OTHER_ROWS, Asked, asked, differences, made_of
from cl_bench.scores.paired_changes import Graded, Stratum, compare_changes, strata_of
from cl_bench.scores.uncertainty import Comparison, mean

HOW_SCORED = ("metric_list", "process_results", "filter_list", "output_type", "class")
"""Keys of a task's definition that make scores of other kinds of equal answers."""
Key = tuple[str, int]
"""Leaf task and document id."""


@dataclass(frozen=True)
class Pair:
    """One document in both places."""

    key: Key
    before: dict[str, Any]
    after: dict[str, Any]
    choices: int | None = None
    """How many answers it can have; None where any text can be one, 1 where it was no guess."""

    @property
    def change(self) -> float:
        """Score of B minus that of A, -1 to 1; 0 where single documents have none."""
        ours, theirs = self.before["score"], self.after["score"]
        return 0.0 if ours is None or theirs is None else float(theirs - ours)

    @property
    def wrong_twice(self) -> bool:
        """Whether neither side has it right."""
        return bool(self.before["score"] == 0 == self.after["score"])

    @property
    def same_answer(self) -> bool | None:
        """Whether both gave the same text or choice; None when a record does not say."""
        for key in ("choice", "prediction"):
            if key in self.before and key in self.after:
                return bool(self.before[key] == self.after[key])
        return None

    @property
    def loglikelihood_gap(self) -> float | None:
        """The largest difference of a log-likelihood in nats; None when there are none."""
        ours, theirs = (side.get("loglikelihoods") for side in (self.before, self.after))
        if not ours or not theirs or len(ours) != len(theirs):
            return None
        pairs = zip(ours, theirs, strict=True)  # null: -inf, or no number
        gaps = [abs(a - b) for a, b in pairs if a is not None and b is not None]
        return float(max(gaps)) if gaps else None


@dataclass(frozen=True)
class TaskDiff:
    """A task or benchmark in A and B. Scores 0-1; of a group the unweighted mean of its members."""

    task: str
    before: float | None
    after: float | None
    comparison: Comparison | None
    """Of B minus A; None where one of them is not measured."""
    pairs: Sequence[Pair]
    members: dict[str, TaskDiff] = field(default_factory=dict)
    of_all: bool = False
    """Whether the score is a number of all documents together."""
    not_measured: dict[str, str] = field(default_factory=dict)
    """Why A or B has no score, by `A` and `B`."""
    graded: bool = False
    """Whether scores of documents may lie between right and wrong."""
    strata: Mapping[str, Stratum] = field(default_factory=dict)
    """What `comparison` is made of, by member; each weighs the same."""

    @property
    def by_chance(self) -> float | None:
        """How many forgotten, and as many learned, documents guessing alone would give.

        Of a group, of those members that have choices. None where answers can be any text, or
        scores lie between.
        """
        if self.members:
            found = [member.by_chance for member in self.members.values()]
            known = [number for number in found if number is not None]
            return sum(known) if known else None
        if self.graded or any(pair.choices is None for pair in self.pairs):
            return None
        return expected_flips(pair.choices or 0 for pair in self.pairs if pair.wrong_twice)

    @property
    def forgotten(self) -> list[Pair]:
        """Right in A and wrong in B; of graded scores those that fell."""
        return [pair for pair in self.pairs if pair.change < 0]

    @property
    def learned(self) -> list[Pair]:
        """Wrong in A and right in B; of graded scores those that rose."""
        return [pair for pair in self.pairs if pair.change > 0]

    @property
    def other_answers(self) -> int | None:
        """Documents answered otherwise; None when the records do not say."""
        same = [pair.same_answer for pair in self.pairs]
        return None if None in same else same.count(False)

    @property
    def loglikelihood_gap(self) -> float | None:
        """The largest difference of a log-likelihood in nats; None where there are none."""
        return max((g for p in self.pairs if (g := p.loglikelihood_gap) is not None), default=None)

    def summary(self) -> dict[str, Any]:
        """Plain values of all its documents together."""
        return {
            "n": len(self.pairs),
            "a": self.before,
            "b": self.after,
            "graded": self.graded,
            "of_all_documents": self.of_all,
            "difference": None if self.comparison is None else self.comparison.to_json(),
            **({"not_measured": self.not_measured} if self.not_measured else {}),
            "by_chance": self.by_chance,
            "n_forgotten": len(self.forgotten),
            "n_learned": len(self.learned),
            "other_answers": self.other_answers,
            "loglikelihood_gap": self.loglikelihood_gap,
        }

    def to_json(self) -> dict[str, Any]:
        """The same, with the documents that changed and the members of a group."""
        return {
            **self.summary(),
            "forgotten": [list(pair.key) for pair in self.forgotten],
            "learned": [list(pair.key) for pair in self.learned],
            "members": {name: member.to_json() for name, member in self.members.items()},
        }


def compare_places(first: Place, second: Place, chosen: Sequence[str] = ()) -> list[TaskDiff]:
    """B against A for the chosen tasks (benchmarks, stage tasks or members), by default all shared.

    Raises UserError for unknown tasks, and unless both sides have the same documents, prompts and
    targets: it says how many differ, and which.
    """
    ours, theirs = first.tasks(), second.tasks()
    for tasks in (ours, theirs):
        tasks |= {leaf: [leaf] for names in list(tasks.values()) for leaf in names}
    wanted = list(chosen) or [task for task in first.tasks() if task in second.tasks()]
    faults = [
        f"--task {task}: not in {place.path}{nearest(task, tasks)}"
        for task in wanted
        for place, tasks in ((first, ours), (second, theirs))
        if task not in tasks
    ]
    if not wanted:
        faults = [f"{first.path} and {second.path} have no task in common"]
    loaded = []
    for task in [] if faults else wanted:
        a, b = first.records(ours[task]), second.records(theirs[task])
        leaves = list(dict.fromkeys([*ours[task], *theirs[task]]))
        faults += (
            _mismatches(task, _asked(first, leaves, a), _asked(second, leaves, b))
            or _other_metric(task, first, second)
            or _made_otherwise(task, first, second)
        )
        loaded.append((task, a, b))
    if faults:
        raise UserError(faults)
    return [_compare(task, a, b, (first, second)) for task, a, b in loaded]


def _other_metric(task: str, first: Place, second: Place) -> list[str]:
    """That the scores of A and B are not the same metric; scores of old do not say."""
    ours, theirs = (
        tuple(place.entry(task).get(key) for key in ("metric", "filter", "aggregation", "scale"))
        for place in (first, second)
    )
    if ours == theirs or ours[0] is None or theirs[0] is None:
        return []
    names = [", ".join(str(part) for part in side if part is not None) for side in (ours, theirs)]
    return [f"{task}: not the same metric: {names[0]} in A, {names[1]} in B"]


def _asked(place: Place, leaves: Sequence[str], records: Records) -> dict[str, Asked]:
    lines: dict[str, list[dict[str, Any]]] = {leaf: [] for leaf in leaves}
    for (leaf, _), record in records.items():
        lines[leaf].append(record)
    return asked(place.path, leaves, lines)


def _mismatches(task: str, a: Mapping[str, Asked], b: Mapping[str, Asked]) -> list[str]:
    """How many documents of the task are not the same, and which."""
    kinds: dict[str, list[Key]] = {}
    for leaf in a:
        for kind, documents in differences(a[leaf], b[leaf]).items():
            kinds.setdefault(kind, []).extend((leaf, document) for document in documents)
    rows = kinds.pop(OTHER_ROWS, [])
    found = [f"{len(keys)} {kind} ({_list(keys)})" for kind, keys in kinds.items()]
    if found or not any(side.documents for side in a.values()):
        what = "; ".join(found) or "none at all"
        return [f"{task}: not the same documents: {what}; score both with the same limit and data"]
    if rows:
        return [
            f"{task}: not the same documents: prompts and targets are equal, but other fields of "
            f"the rows differ ({names(list(dict.fromkeys(leaf for leaf, _ in rows)))})"
        ]
    return []


def _made_otherwise(task: str, first: Place, second: Place) -> list[str]:
    """What the records of the two sides say of how answers are scored."""
    ours, theirs = (made_of(side.path).get("tasks", {}).get(task, {}) for side in (first, second))
    if not ours or not theirs:
        return []
    keys = [key for key in HOW_SCORED if ours.get(key) != theirs.get(key)]
    return [f"{task}: not scored alike: {names(keys)} of its definition differ"] if keys else []


def _list(keys: Sequence[Key]) -> str:
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(f"{leaf} {document}" for leaf, document in keys[:5]) + more


def _compare(task: str, a: Records, b: Records, places: tuple[Place, Place]) -> TaskDiff:
    entries = {leaf: places[0].entry(leaf) for leaf, _ in a}
    pairs = [Pair(k, a[k], b[k], choices_of(entries[k[0]], a[k], b[k])) for k in a]
    members: dict[str, list[Pair]] = {}
    for pair in pairs:
        members.setdefault(pair.key[0], []).append(pair)
    inner = {}
    if len(members) > 1:
        inner = {name: _diff(name, {name: own}, own, places) for name, own in members.items()}
    return _diff(task, members, pairs, places, inner)


def _diff(
    task: str,
    members: dict[str, list[Pair]],
    pairs: Sequence[Pair],
    places: tuple[Place, Place],
    inner: dict[str, TaskDiff] | None = None,
) -> TaskDiff:
    entries = [place.entry(task) for place in places]
    if any(map(is_unmeasured, entries)):
        reasons = {
            side: str(entry.get("not_measured"))
            for side, entry in zip("AB", entries, strict=True)
            if is_unmeasured(entry)
        }
        a, b = (entry.get("score") for entry in entries)
        return TaskDiff(task, a, b, None, pairs, inner or {}, not_measured=reasons)
    if any(map(of_all_documents, entries)):
        return _diff_of_all(task, members, pairs, entries, inner)
    before, after = (
        mean([mean([getattr(pair, side)["score"] for pair in own]) for own in members.values()])
        for side in ("before", "after")
    )
    sides = {
        name: ([p.before["score"] for p in own], [p.after["score"] for p in own])
        for name, own in members.items()
    }
    lies = graded(task, entries, (v for pair in sides.values() for side in pair for v in side))
    strata = strata_of(sides, lies)
    found = compare_changes(strata)
    return TaskDiff(task, before, after, found, pairs, inner or {}, graded=lies, strata=strata)


def _diff_of_all(
    task: str,
    members: dict[str, list[Pair]],
    pairs: Sequence[Pair],
    entries: Sequence[Mapping[str, Any]],
    inner: dict[str, TaskDiff] | None,
) -> TaskDiff:
    """Of a metric of all documents together: paired over their resamples."""
    before, after = (
        dict(
            paired_values(
                entry,
                {leaf: [getattr(pair, side) for pair in own] for leaf, own in members.items()},
            )
        )
        for entry, side in zip(entries, ("before", "after"), strict=True)
    )
    strata = {task: Graded([after[key] - before[key] for key in after if key in before])}
    compared = replace(compare_changes(strata), n={task: len(pairs)})
    scores = [float(entry["score"]) for entry in entries]
    return TaskDiff(
        task, scores[0], scores[1], compared, pairs, inner or {}, of_all=True, strata=strata
    )
