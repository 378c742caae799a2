"""Continual-learning numbers from a score matrix: OP, BWT, FWT, forgetting, learning accuracy.

R[t, i] is the score (0-1) on task i after stage t; R[0, i] is the base model's. Sources: OP and BWT
as TRACE (arXiv 2310.06762) tabulates them, FWT after Lopez-Paz and Ranzato (NeurIPS 2017), average
forgetting after Chaudhry et al. (ECCV 2018), the mean of OP over stages as FGGM (arXiv 2601.18261)
words it. Every number is a weighted sum of cells, so one function computes them all, with their
standard errors; a number that lacks a cell is "not measured", never 0.

Settings: `sequential` trains one stage after another; `single` starts every stage from the base
model, so only the diagonal means something; `joint` (mtl) learns all tasks in one stage; `base`
(ori) is the untrained model, whose row stands for every stage.

A task may be taught by several stages (visits): its column is one, its rows are all stages. OP and
FWT count it from the first visit on. BWT, forgetting and the diagonal look at the latest: what came
back by teaching a task again is no transfer, and a task that the last stage teaches has had no time
to be forgotten. Without repetition both are the same stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, Literal

from cl_bench.scores.cells import Cell, Measure, unweighted_mean, weighted_mean
from cl_bench.scores.general import GeneralRow, GeneralScore, general_mean, general_score
from cl_bench.scores.uncertainty import (
    Comparison,
    Documents,
    compare_paired,
    compare_seeds,
    mean,
    minimum_detectable_difference,
)

__all__ = [
    "Cell",
    "Comparison",
    "Documents",
    "GeneralScore",
    "Measure",
    "ScoreMatrix",
    "Summary",
    "average_forgetting",
    "backward_transfer",
    "compare_paired",
    "compare_seeds",
    "forward_transfer",
    "general_mean",
    "general_score",
    "learning_accuracy",
    "minimum_detectable_difference",
    "op_at",
    "op_final",
    "op_mean",
    "op_mean_weights",
    "operation_score",
    "summarise",
    "unweighted_mean",
    "weighted_mean",
]

Setting = Literal["sequential", "single", "joint", "base"]
Row = Mapping[str, "Cell | None"]
Weights = dict[tuple[int, str], float]  # (stage, task) -> weight in a sum; stage 0 is the base

# Correlation over documents assumed when a paired comparison is planned; a real pair has its own.
ASSUMED_CORRELATION = 0.5


@dataclass(frozen=True)
class ScoreMatrix:
    """Scores by stage and task. `rows[t - 1]` is after stage t; a missing or None cell was not
    measured. `learned` is the stage that first taught each task (default: task i in stage i, all in
    stage 1 when joint), `latest` the last one that did, for tasks that several teach; stages that
    teach none of `tasks` are allowed: `stages` counts them too.
    """

    rows: Sequence[Row]
    tasks: Sequence[str]
    base: Row | None = None
    setting: Setting = "sequential"
    learned: Mapping[str, int] = field(default_factory=dict)
    stages: int = 0
    latest: Mapping[str, int] = field(default_factory=dict)

    def cell(self, stage: int, task: str) -> Cell | None:
        """R[stage, task], or None."""
        if stage == 0 or self.setting == "base":
            return (self.base or {}).get(task)
        return self.rows[stage - 1].get(task) if stage <= len(self.rows) else None

    def stage_of(self, task: str) -> int:
        """The stage that first taught the task, from 1."""
        default = 1 if self.setting == "joint" else list(self.tasks).index(task) + 1
        return self.learned.get(task, default)

    def latest_of(self, task: str) -> int:
        """The last stage that taught the task, from 1: its place on the diagonal."""
        return self.latest.get(task, self.stage_of(task))

    @property
    def last(self) -> int:
        """The number of stages that the sequence has, run or not."""
        return max([self.stages, len(self.rows), *(self.latest_of(task) for task in self.tasks)])

    def learned_by(self, stage: int) -> list[str]:
        """Tasks taught up to and including the stage, in order."""
        return [task for task in self.tasks if self.stage_of(task) <= stage]

    @property
    def behind(self) -> list[str]:
        """Tasks that the last stage does not teach, in order: those that can be forgotten."""
        return [task for task in self.tasks if self.latest_of(task) < self.last]


def op_at(matrix: ScoreMatrix, stage: int) -> Measure:
    """OP_t: the unweighted mean of R[t, i] over the tasks learned by stage t."""
    if matrix.setting == "single":
        return _undefined("every stage starts from the base model: none has seen several tasks")
    return _weighted_sum(matrix, _op_weights(matrix, stage), f"no task learned by stage {stage}")


def op_final(matrix: ScoreMatrix) -> Measure:
    """OP after the last stage, the mean of the last row: what TRACE calls OP."""
    return op_at(matrix, matrix.last)


def op_mean(matrix: ScoreMatrix) -> Measure:
    """The mean over stages of OP_t, which is what FGGM's wording of OP says.

    For `base` the same weights are put on its one row, so that it compares with a sequence; for
    `joint` there is one stage and it equals op_final.
    """
    if matrix.setting == "single":
        return op_at(matrix, matrix.last)
    return _weighted_sum(matrix, _op_mean_cells(matrix), "no task was learned")


def op_mean_weights(matrix: ScoreMatrix) -> dict[str, float]:
    """The share of every task in op_mean, summing to 1: .340 for the first of eight, .016 last."""
    weights = dict.fromkeys(matrix.tasks, 0.0)
    for (_, task), weight in _op_mean_cells(matrix).items():
        weights[task] += weight
    return weights


def backward_transfer(matrix: ScoreMatrix, over: Literal["T-1", "T"] = "T-1") -> Measure:
    """BWT: the sum of R[T, i] - R[i, i] over the tasks learned before the last stage.

    Divided by their number, T - 1 (default: what reproduces TRACE's tables) or by the number of all
    tasks, T (what TRACE's formula is said to print). -1 to 1; negative is forgetting. Of a task
    that several stages teach, R[i, i] is after the latest.
    """
    earlier = matrix.behind
    count = len(earlier) if over == "T-1" else len(matrix.tasks)
    weights: Weights = {}
    for task in earlier:
        weights[matrix.last, task] = 1 / count
        weights[matrix.latest_of(task), task] = -1 / count
    return _of_sequence(matrix, weights, "no task was learned before the last stage")


def forward_transfer(matrix: ScoreMatrix) -> Measure:
    """FWT: the mean of R[i-1, i] - R[0, i] over the tasks learned after stage 1. -1 to 1.

    What earlier stages did for a task before it was taught, against the base model (Lopez-Paz and
    Ranzato use a random initialisation). Needs the cells above the diagonal (`cells: all`).
    """
    later = [task for task in matrix.tasks if matrix.stage_of(task) > 1]
    weights: Weights = {}
    for task in later:
        weights[matrix.stage_of(task) - 1, task] = 1 / len(later)
        weights[0, task] = -1 / len(later)
    return _of_sequence(matrix, weights, "no task was learned after the first stage")


def average_forgetting(matrix: ScoreMatrix) -> Measure:
    """The mean over earlier tasks of (their best score before the last stage) - R[T, i]. -1 to 1.

    The best is over the stages from the (latest) one that taught the task on, all of them measured
    (Chaudhry et al. also look at stages before it, which need not exist). Positive is forgetting.
    A maximum of noisy scores is biased upwards: read it beside BWT.
    """
    earlier = matrix.behind
    weights: Weights = {}
    for task in earlier:
        stages = range(matrix.latest_of(task), matrix.last)
        cells = {stage: matrix.cell(stage, task) for stage in stages}
        # A stage without a score is chosen, so that the sum below names it as missing.
        best = max(stages, key=lambda stage: _rank(cells[stage]))
        weights[best, task] = 1 / len(earlier)
        weights[matrix.last, task] = -1 / len(earlier)
    return _of_sequence(matrix, weights, "no task was learned before the last stage")


def learning_accuracy(matrix: ScoreMatrix) -> Measure:
    """The mean of the diagonal: every task right after the (latest) stage that taught it. 0-1.

    The number of `single`; for `joint` it equals op_final.
    """
    weights = {(matrix.latest_of(task), task): 1 / len(matrix.tasks) for task in matrix.tasks}
    if matrix.setting == "base":
        return _undefined("the base model was not trained")
    return _weighted_sum(matrix, weights, "no task was learned")


def operation_score(trace: Mapping[str, Mapping[str, Any]], seen: Sequence[str]) -> float | None:
    """OP_t from the `trace` part of a `scores.json`; None when one in `seen` is not measured."""
    scores = [trace.get(task, {}).get("score") for task in seen]
    known = [score for score in scores if score is not None]
    return mean(known) if known and len(known) == len(scores) else None


@dataclass(frozen=True)
class Summary:
    """What `summary.json` holds about one run; see `to_json`."""

    matrix: ScoreMatrix
    general: Sequence[GeneralScore]  # after every stage; for `base` the base model's alone

    def general_final(self) -> GeneralScore:
        """General after the last stage of the sequence; for `base` the base model's."""
        if self.matrix.setting == "single":
            unknown = _undefined("every stage starts from the base model")
        elif self.matrix.setting != "base" and len(self.general) < self.matrix.last:
            unknown = _undefined(f"General after stage {self.matrix.last}")
        else:
            return self.general[-1]
        return GeneralScore(unknown, unknown)

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that could not be computed are null with the reason beside them."""
        matrix = self.matrix
        final = op_final(matrix)
        general = self.general_final()
        rows = range(1, len(matrix.rows) + 1)
        stages = range(1, matrix.last + 1) if matrix.setting == "base" else rows
        return {
            "setting": matrix.setting,
            "tasks": list(matrix.tasks),
            "learned": {task: matrix.stage_of(task) for task in matrix.tasks},
            **({"latest": dict(matrix.latest)} if matrix.latest else {}),
            "base": _row_json(matrix, 0),
            "matrix": [_row_json(matrix, stage) for stage in rows],
            "op": [op_at(matrix, stage).to_json() for stage in stages],
            "op_final": final.to_json(),
            "op_mean": op_mean(matrix).to_json(),
            "op_mean_weights": op_mean_weights(matrix),
            "bwt": backward_transfer(matrix).to_json(),
            "bwt_over_T": backward_transfer(matrix, over="T").to_json(),
            "fwt": forward_transfer(matrix).to_json(),
            "forgetting": average_forgetting(matrix).to_json(),
            "learning_accuracy": learning_accuracy(matrix).to_json(),
            "general": [score.to_json() for score in self.general],
            "general_final": general.to_json(),
            "minimum_detectable_difference": {
                "op_final": _detectable(final.stderr),
                "general": _detectable(general.mean.stderr),
                "assumed_correlation": ASSUMED_CORRELATION,
            },
        }


def summarise(
    matrix: Sequence[Row],
    tasks: Sequence[str],
    base_row: Row | None = None,
    general: Sequence[GeneralRow | None] = (),
    base_general: GeneralRow | None = None,
    *,
    setting: Setting = "sequential",
    learned: Mapping[str, int] | None = None,
    stages: int = 0,
    latest: Mapping[str, int] | None = None,
) -> Summary:
    """All numbers of one run from its rows (one a stage), and General's rows (one a stage).

    For `base` leave `matrix` and `general` empty. `learned`, `stages` and `latest` as in
    `ScoreMatrix`.
    """
    rows = ScoreMatrix(matrix, tasks, base_row, setting, learned or {}, stages, latest or {})
    measured = [base_general] if setting == "base" else general
    return Summary(rows, [general_score(row, base_general) for row in measured])


def _op_weights(matrix: ScoreMatrix, stage: int) -> Weights:
    tasks = matrix.learned_by(stage)
    return {(stage, task): 1 / len(tasks) for task in tasks}


def _op_mean_cells(matrix: ScoreMatrix) -> Weights:
    stages = [stage for stage in range(1, matrix.last + 1) if matrix.learned_by(stage)]
    return {
        key: weight / len(stages)
        for stage in stages
        for key, weight in _op_weights(matrix, stage).items()
    }


def _of_sequence(matrix: ScoreMatrix, weights: Weights, reason: str) -> Measure:
    if matrix.setting == "base":
        return _undefined("the base model was not trained")
    if matrix.setting == "single":
        return _undefined("every stage starts from the base model")
    return _weighted_sum(matrix, weights, reason)


def _weighted_sum(matrix: ScoreMatrix, weights: Weights, if_empty: str) -> Measure:
    """Sum of weight * cell. Tasks are independent; the cells of one task share their documents.

    Their correlation is not known here, so the standard error is the upper bound for correlations
    of 0 to 1: cells of one sign add up, cells of opposite signs add in squares.
    """
    if not weights:
        return _undefined(if_empty)
    value, known = 0.0, True
    missing: list[str] = []
    errors: dict[tuple[str, bool], float] = {}
    for (stage, task), weight in weights.items():
        cell = matrix.cell(stage, task)
        if cell is None:
            missing.append(f"{task} after stage {stage}" if stage else f"{task} of the base model")
            continue
        value += weight * cell.score
        known = known and cell.stderr is not None
        side = (task, weight > 0)
        errors[side] = errors.get(side, 0.0) + abs(weight) * (cell.stderr or 0.0)
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        return _undefined(", ".join(missing[:4]) + more)
    return Measure(value, sqrt(sum(error**2 for error in errors.values())) if known else None)


def _undefined(reason: str) -> Measure:
    return Measure(None, not_measured=reason)


def _rank(cell: Cell | None) -> float:
    return float("inf") if cell is None else cell.score


def _row_json(matrix: ScoreMatrix, stage: int) -> dict[str, Any]:
    cells = {task: matrix.cell(stage, task) for task in matrix.tasks}
    return {task: cell.to_json() if cell else None for task, cell in cells.items()}


def _detectable(stderr: float | None) -> dict[str, float | None]:
    """Against a model with the same standard error, scored on other or on the same documents."""
    if stderr is None:
        return {"unpaired": None, "paired": None}
    return {
        "unpaired": minimum_detectable_difference(stderr),
        "paired": minimum_detectable_difference(stderr, correlation=ASSUMED_CORRELATION),
    }
