"""Every method of a group against the base model and against a baseline, after the last stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cl_bench.errors import RunError, UserError, nearest
from cl_bench.results.answers import Compared, Scoring, changed, compare, read_scoring
from cl_bench.results.groups import Group
from cl_bench.results.methods import MethodResult
from cl_bench.results.same_documents import Reference
from cl_bench.scores.general import leaves
from cl_bench.scores.uncertainty import detectable, holm
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import RunFolder, there
from cl_bench.store.seals import read_sealed

Score = Literal["general", "op"]
Against = Literal["base", "baseline"]
SCORES: tuple[Score, ...] = ("general", "op")
LEVEL = 0.05


@dataclass
class Difference:
    """One of several that are claimed together."""

    compared: Compared | None
    corrected: float | None = None
    """p after Holm's correction over all of its table."""

    @property
    def resolved(self) -> bool:
        """Whether it is one, however many others were looked at."""
        return self.corrected is not None and self.corrected < LEVEL


@dataclass(frozen=True)
class Change:
    """A benchmark or task before and after the last stage; scores 0-1, means over seeds."""

    benchmark: str
    n: int
    before: float
    after: float
    difference: Difference
    documents: tuple[float, float] | None
    """How many have a lower and how many a higher score than before, means over seeds."""

    @property
    def verdict(self) -> str:
        """`lost`, `gained`, the same with `perhaps` where correction leaves nothing, ..."""
        compared = self.difference.compared
        if compared is None:
            return "not measured"
        found = compared.comparison
        if self.documents == (0, 0):
            return "unchanged"
        what = "lost" if found.difference < 0 else "gained"
        if self.difference.resolved:
            return what
        return f"perhaps {what}" if found.resolved else "not resolved"


@dataclass(frozen=True)
class Cost:
    """Training of all stages: seconds, and MiB of the stage that needs most."""

    seconds: float | None
    memory: float | None


@dataclass
class Standing:
    """One method."""

    label: str
    result: MethodResult
    keeps: Sequence[str] | None
    """Of earlier tasks; None where an older version did not record it."""
    lasts: Sequence[Scoring]
    """After the last stage, one a seed; empty where a method is not finished, or has no such."""
    differences: dict[tuple[Score, Against], Difference] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    task_changes: list[Change] = field(default_factory=list)
    """Stage tasks, from right after their own stage to after the last."""
    cost: Cost = Cost(None, None)
    """As multiples of sft's on the same hardware."""


@dataclass
class Standings:
    """All methods of a group."""

    base: Scoring
    benchmarks: list[str]
    tasks: list[str]
    baseline: str | None
    methods: list[Standing]

    def names(self, score: Score) -> list[str]:
        """What the score is the mean of."""
        return self.benchmarks if score == "general" else self.tasks

    @property
    def comparisons(self) -> int:
        """How many differences are claimed together in the method table."""
        return sum(
            each.compared is not None
            for method in self.methods
            for each in method.differences.values()
        )

    def detectable(self, score: Score, against: Against) -> list[float]:
        """The smallest difference that each method's comparison could show, 0-1."""
        found = [
            each.compared.comparison
            for method in self.methods
            if (each := method.differences.get((score, against))) and each.compared
        ]
        return [
            detectable(each.stderr, each.df or float("inf"), max(1, self.comparisons))
            for each in found
            if each.stderr
        ]

    @property
    def paired(self) -> bool:
        """Whether every difference is over single documents."""
        found = [d.compared for method in self.methods for d in method.differences.values()]
        return all(each.paired for each in found if each is not None)

    @property
    def left_out(self) -> dict[str, int]:
        """Documents by task that are not the same everywhere."""
        found: dict[str, int] = {}
        for method in self.methods:
            for last in method.lasts:
                for task, count in last.left_out.items():
                    found[task] = max(count, found.get(task, 0))
        return found


def standings(
    group: Group, baseline: str | None, faults: list[str], every_stage: bool = False
) -> Standings:
    """Read what the last stages of a group's methods left, and compare.

    `baseline`: the label that methods are compared with beside the base model. A damaged run is
    named in `faults` and has no numbers here. `every_stage`: read earlier stages too, for
    `task_changes`.
    """
    base = group.first.base
    columns = {name: [name] for name in base["trace"]}
    names = leaves(base["general"]) | columns
    reference = Reference()
    begun = _scoring(reference, group.first.folder / "base", names, faults)
    found = Standings(
        begun or Scoring(base), list(leaves(base["general"])), list(columns), baseline, []
    )
    for label, result in group.methods():
        lasts = _lasts(result, reference, names, faults)
        record = read_run(result.runs[0].path / "run.json")
        found.methods.append(Standing(label, result, record.get("keeps"), lasts))
    if every_stage:
        for method in found.methods:
            method.task_changes += _task_changes(method, found.tasks, reference, faults)
        _correct(each.difference for method in found.methods for each in method.task_changes)
    _compare(found)
    _changes(found)
    _costs(found, faults)
    return found


def baseline_of(groups: Sequence[Group], given: str | None) -> str | None:
    """The label to compare with: the one given, or `sft` if there. Raises UserError if unknown."""
    labels = [label for group in groups for label, _ in group.methods()]
    if given is None:
        return "sft" if "sft" in labels else None
    if given not in labels:
        raise UserError(f"--baseline {given}: no such method in the report{nearest(given, labels)}")
    return given


def _lasts(
    result: MethodResult,
    reference: Reference,
    names: Mapping[str, Sequence[str]],
    faults: list[str],
) -> list[Scoring]:
    if not result.complete or result.setting == "single":  # no model of it has seen all tasks
        return []
    found = [_scoring(reference, run.stages()[-1].path, names, faults) for run in result.runs]
    return [scoring for scoring in found if scoring is not None] if None not in found else []


def _scoring(
    reference: Reference, place: Path, names: Mapping[str, Sequence[str]], faults: list[str]
) -> Scoring | None:
    try:
        return read_scoring(reference, place, names)
    except RunError as error:
        faults.append(str(error))
        return None


def _compare(found: Standings) -> None:
    other = next((m for m in found.methods if m.label == found.baseline), None)
    for method in found.methods:
        for score in SCORES:
            names = found.names(score)
            base = compare(method.lasts, [found.base], names)
            method.differences[score, "base"] = Difference(base)
            if other is not None and method is not other:
                pairs = _same_seeds(method, other)
                compared = compare([a for a, _ in pairs], [b for _, b in pairs], names)
                method.differences[score, "baseline"] = Difference(compared)
    _correct(each for method in found.methods for each in method.differences.values())


def _same_seeds(first: Standing, second: Standing) -> list[tuple[Scoring, Scoring]]:
    """Places of equal seeds; in order where no seed is in both."""
    if not first.lasts or not second.lasts:
        return []
    ours = dict(zip(first.result.seeds, first.lasts, strict=True))
    theirs = dict(zip(second.result.seeds, second.lasts, strict=True))
    shared = [seed for seed in ours if seed in theirs]
    if shared:
        return [(ours[seed], theirs[seed]) for seed in shared]
    return list(zip(first.lasts, second.lasts, strict=False))


def _correct(differences: Iterable[Difference]) -> None:
    """Holm's correction over all of them."""
    listed = list(differences)
    p_values = [
        None if each.compared is None else each.compared.comparison.p_value for each in listed
    ]
    for each, corrected in zip(listed, holm(p_values), strict=True):
        each.corrected = corrected


def _changes(found: Standings) -> None:
    """Every benchmark of every method, and General."""
    for method in found.methods:
        groups = [(name, [name]) for name in found.benchmarks]
        if len(groups) > 1:
            groups.append(("General", found.benchmarks))
        for name, parts in groups if method.lasts else ():
            change = _change([found.base], method.lasts, name, parts)
            if change is not None:
                method.changes.append(change)
    single = [c for m in found.methods for c in m.changes if c.benchmark in found.benchmarks]
    _correct(change.difference for change in single)
    for method in found.methods:  # General's is claimed in the method table already
        for change in method.changes:
            if change.benchmark not in found.benchmarks:
                change.difference.corrected = method.differences["general", "base"].corrected


def _task_changes(
    method: Standing, tasks: Sequence[str], reference: Reference, faults: list[str]
) -> Iterator[Change]:
    """Of tasks that the last stage does not teach."""
    for task in tasks if method.lasts else ():
        own = list(method.result.visits.get(task, ()))
        if not own or own[-1] >= method.result.stages:
            continue
        stages = [run.stages()[own[-1] - 1] for run in method.result.runs]
        before = [_scoring(reference, stage.path, {task: [task]}, faults) for stage in stages]
        known = [scoring for scoring in before if scoring is not None]
        change = _change(known, method.lasts, task, [task]) if len(known) == len(before) else None
        if change is not None:
            yield change


def _change(
    begun: Sequence[Scoring], lasts: Sequence[Scoring], name: str, parts: Sequence[str]
) -> Change | None:
    """From one place for all seeds, or from one for each."""
    before = [scoring.cell(part) for scoring in begun for part in parts]
    after = [last.cell(part) for last in lasts for part in parts]
    if None in before or None in after:
        return None
    scores = [[cell.score for cell in cells if cell is not None] for cells in (before, after)]
    return Change(
        name,
        sum(cell.n for cell in before if cell is not None) // len(begun),
        sum(scores[0]) / len(scores[0]),
        sum(scores[1]) / len(scores[1]),
        Difference(compare(lasts, begun, parts)),
        changed(lasts, begun, parts),
    )


def _costs(found: Standings, faults: list[str]) -> None:
    """Multiples of sft's, where both were trained on the same machine by as many processes."""
    sft = next((m for m in found.methods if _trains_as(m.result) == ["sft"]), None)
    known = {id(m): [_cost(run, faults) for run in m.result.runs] for m in found.methods}
    for method in found.methods:
        if sft is None or not (method.result.complete and sft.result.complete):
            continue
        if _machine(method.result) != _machine(sft.result):
            continue
        ours, theirs = known[id(method)], known[id(sft)]
        method.cost = Cost(
            _ratio([c.seconds for c in ours], [c.seconds for c in theirs]),
            _ratio([c.memory for c in ours], [c.memory for c in theirs]),
        )


def _ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float | None:
    a, b = ([value for value in side if value is not None] for side in (ours, theirs))
    if len(a) < len(ours) or len(b) < len(theirs) or not sum(b):
        return None
    return (sum(a) / len(a)) / (sum(b) / len(b))


def _cost(run: RunFolder, faults: list[str]) -> Cost:
    seconds: list[float | None] = []
    memory: list[float | None] = []
    for stage in run.stages():
        file = stage.path / "timing.json"
        try:
            timing = (
                read_sealed(file, "restore it from a copy, or delete it") if there(file) else {}
            )
        except RunError as error:
            faults.append(str(error))
            timing = {}
        seconds.append(timing.get("train_seconds"))
        # Older versions recorded the peak of the whole process, with the runs before.
        memory.append(timing.get("peak_memory_mb") if timing.get("peak_of") == "stage" else None)
    times, peaks = ([v for v in side if v is not None] for side in (seconds, memory))
    return Cost(
        sum(times) if len(times) == len(seconds) and times else None,
        max(peaks) if len(peaks) == len(memory) and peaks else None,
    )


def _trains_as(result: MethodResult) -> list[str]:
    """Names of the methods that its stages use."""
    config = read_run(result.runs[0].path / "run.json")["config"]
    names = (
        name for stage in config["stages"] for part in stage.get("method", []) for name in part
    )
    return list(dict.fromkeys(names))


def _machine(result: MethodResult) -> list[Any]:
    return [read_run(run.path / "run.json").get("hardware") for run in result.runs][:1]
