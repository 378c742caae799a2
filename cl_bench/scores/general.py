"""General ability: the mean over benchmarks, and what it gained and lost against the base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cl_bench.config.budgets import TRACE_GENERAL
from cl_bench.scores.cells import Cell, Measure, unweighted_mean
from cl_bench.scores.uncertainty import mean

GeneralRow = Mapping[str, "Cell | None"]


@dataclass(frozen=True)
class GeneralScore:
    """General after one stage, all on 0-1.

    `mean` is unweighted over the benchmarks, `delta` its difference to the base model. `loss` is
    the mean of the negative deltas and `gain` that of the positive ones (0 when there is none), so
    delta = (fallen * loss + risen * gain) / benchmarks.
    """

    mean: Measure
    delta: Measure
    loss: float | None = None
    gain: float | None = None
    fallen: int | None = None
    risen: int | None = None
    deltas: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """With the names that reports use: general, general_delta, general_loss, general_gain."""
        return {
            "general": self.mean.to_json(),
            "general_delta": self.delta.to_json(),
            "general_loss": self.loss,
            "general_gain": self.gain,
            "fallen": self.fallen,
            "risen": self.risen,
            "deltas": self.deltas,
        }


def general_score(row: GeneralRow | None, base: GeneralRow | None) -> GeneralScore:
    """General of one stage and its deltas against the base model.

    A benchmark that either side has and the other has not makes the delta "not measured"; one that
    `row` lacks, the mean. The delta's standard error takes the two models as independent: an upper
    bound, since they answer the same questions (compare documents for the real one).
    """
    benchmarks = sorted({*(row or {}), *(base or {})})
    ours, now = _mean(row, benchmarks, "after the stage")
    theirs, before = _mean(base, benchmarks, "of the base model")
    if ours.value is None or theirs.value is None:
        reason = ours.not_measured or theirs.not_measured
        return GeneralScore(ours, Measure(None, not_measured=reason))
    stderr = None
    if ours.stderr is not None and theirs.stderr is not None:
        stderr = (ours.stderr**2 + theirs.stderr**2) ** 0.5
    deltas = {name: now[name].score - before[name].score for name in benchmarks}
    negative = [delta for delta in deltas.values() if delta < 0]
    positive = [delta for delta in deltas.values() if delta > 0]
    return GeneralScore(
        mean=ours,
        delta=Measure(mean(list(deltas.values())), stderr),
        loss=mean(negative) if negative else 0.0,
        gain=mean(positive) if positive else 0.0,
        fallen=len(negative),
        risen=len(positive),
        deltas=deltas,
    )


def general_mean(general: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The unweighted mean of the benchmarks' `score` in `scores.json`.

    None if there are none, or one of them is not measured.
    """
    scores = [entry["score"] for entry in general.values()]
    return mean(scores) if scores and None not in scores else None


def _mean(
    row: GeneralRow | None, benchmarks: list[str], where: str
) -> tuple[Measure, dict[str, Cell]]:
    found = {name: cell for name in benchmarks if (cell := (row or {}).get(name)) is not None}
    missing = [name for name in benchmarks if name not in found]
    if missing or not found:
        what = ", ".join(missing) or "General"
        return Measure(None, not_measured=f"{what} {where}"), found
    cell = unweighted_mean(found.values())
    return Measure(cell.score, cell.stderr), found


def leaves(general: Mapping[str, Any]) -> dict[str, list[str]]:
    """Leaf tasks of each benchmark in `scores.json`, as their prediction files are named."""

    def files(name: str, entry: Mapping[str, Any]) -> list[str]:
        if "members" in entry:
            return list(entry["members"])
        if "measured" in entry:
            return [entry["measured"]["task"]]
        # Scores that are older than `measured` are lm-eval's.
        return [f"general_{name}" if name in TRACE_GENERAL else name]

    return {name: files(name, entry) for name, entry in general.items() if name != "mean"}
