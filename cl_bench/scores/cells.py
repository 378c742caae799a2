"""A score with its uncertainty, and means of scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from cl_bench.scores.uncertainty import mean, standard_error


@dataclass(frozen=True)
class Cell:
    """One score: the mean over `n` documents (0-1) and its standard error.

    `stderr` is None below two documents. Closed-label tasks carry the accuracy of the best constant
    answer (`majority`) and the shares of the predicted labels (`labels`).
    """

    score: float
    n: int
    stderr: float | None = None
    majority: float | None = None
    labels: Mapping[str, float] | None = None

    @classmethod
    def from_documents(cls, scores: Sequence[float]) -> Cell:
        """The cell of per-document scores. Raises ValueError without documents: not measured."""
        if not scores:
            raise ValueError("a cell needs at least one document; without any it is None")
        return cls(mean(scores), len(scores), standard_error(scores))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        """A cell from a task's entry in `scores.json` (other keys are ignored)."""
        return cls(
            data["score"], data["n"], data.get("stderr"), data.get("majority"), data.get("labels")
        )

    def to_json(self) -> dict[str, Any]:
        """Score, n and standard error, and the label fields where there are any."""
        data: dict[str, Any] = {"score": self.score, "n": self.n, "stderr": self.stderr}
        if self.majority is not None:
            data["majority"] = self.majority
        if self.labels is not None:
            data["labels"] = dict(self.labels)
        return data


@dataclass(frozen=True)
class Measure:
    """A number with its standard error, or why there is none (then `value` is None)."""

    value: float | None
    stderr: float | None = None
    not_measured: str | None = None

    def to_json(self) -> dict[str, Any]:
        """`value` and `stderr`; with `value` null also `not_measured`, the reason."""
        data: dict[str, Any] = {"value": self.value, "stderr": self.stderr}
        return data if self.not_measured is None else {**data, "not_measured": self.not_measured}


def unweighted_mean(cells: Iterable[Cell]) -> Cell:
    """Every cell counts the same: TRACE's and OpenCompass's MMLU, BBH, TyDiQA; also General.

    `n` is the number of documents in all. The standard error takes the cells as independent, and is
    None when one of them has none. Raises ValueError without cells.
    """
    listed = list(cells)
    return _mean(listed, [1 / max(1, len(listed))] * len(listed))


def stratified_mean(cells: Iterable[Cell]) -> Cell:
    """`unweighted_mean` of a benchmark's members, with an error where some have one document.

    A member of one document gets the pooled variance of documents, that of the other members
    weighted by their n - 1. When all have one, the variance of their scores stands for it: an upper
    bound, as it holds the differences between members too. None for a single document.
    """
    listed = list(cells)
    known = [(cell.n - 1, cell.n * cell.stderr**2) for cell in listed if cell.stderr is not None]
    if not known:
        scores = [cell.score for cell in listed]
        return replace(unweighted_mean(listed), stderr=standard_error(scores))
    pooled = sum(df * variance for df, variance in known) / sum(df for df, _ in known)
    return unweighted_mean(
        replace(cell, stderr=sqrt(pooled / cell.n)) if cell.stderr is None else cell
        for cell in listed
    )


def weighted_mean(cells: Iterable[Cell]) -> Cell:
    """Every document counts the same, as in lm-evaluation-harness; else as `unweighted_mean`."""
    listed = list(cells)
    total = sum(cell.n for cell in listed)
    return _mean(listed, [cell.n / total for cell in listed])


def _mean(cells: Sequence[Cell], weights: Sequence[float]) -> Cell:
    if not cells:
        raise ValueError("the mean of no cells is not measured")
    score = sum(weight * cell.score for weight, cell in zip(weights, cells, strict=True))
    errors = [cell.stderr for cell in cells]
    parts = [w * error for w, error in zip(weights, errors, strict=True) if error is not None]
    stderr = sqrt(sum(part**2 for part in parts)) if len(parts) == len(cells) else None
    return Cell(score, sum(cell.n for cell in cells), stderr)
