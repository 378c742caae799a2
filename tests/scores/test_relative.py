"""Quotients and intransigence against plain arithmetic."""

from __future__ import annotations

import math

import pytest

from cl_bench.scores.cells import Cell, Measure
from cl_bench.scores.matrix import ScoreMatrix
from cl_bench.scores.relative import intransigence, quotient


def test_a_quotient_has_the_error_of_both() -> None:
    found = quotient(Measure(0.3, 0.03), Measure(0.6, 0.12))
    assert found.value == 0.5
    # The relative errors 0.1 and 0.2 add up in squares.
    assert found.stderr == pytest.approx(0.5 * math.hypot(0.1, 0.2))
    assert quotient(Measure(0.3), Measure(0.6, 0.1)) == Measure(0.5)
    assert quotient(Measure(0.0, 0.1), Measure(0.5, 0.1)).stderr == pytest.approx(0.2)


def test_a_quotient_without_a_reference_is_not_measured() -> None:
    assert quotient(Measure(0.3), Measure(0.0)).not_measured == "the reference is 0 or less"
    missing = Measure(None, not_measured="General after stage 2")
    for pair in ((missing, Measure(0.5)), (Measure(0.5), missing)):
        assert quotient(*pair).not_measured == "General after stage 2"


def row(**scores: float) -> dict[str, Cell | None]:
    return {task: Cell(score, 50, 0.1) for task, score in scores.items()}


SEQUENCE = ScoreMatrix([row(a=0.5), row(a=0.1, b=0.6)], ["a", "b"])


def test_intransigence_is_of_the_diagonal() -> None:
    """What was forgotten later does not count."""
    joint = ScoreMatrix([row(a=0.9, b=0.5)], ["a", "b"], setting="joint")
    found = intransigence(SEQUENCE, joint)
    assert found.value == pytest.approx(((0.9 - 0.5) + (0.5 - 0.6)) / 2)
    assert found.stderr == pytest.approx(math.sqrt(4 * 0.1**2) / 2)
    alone = ScoreMatrix([row(a=0.7), row(b=0.8)], ["a", "b"], setting="single")
    assert intransigence(SEQUENCE, alone).value == pytest.approx(((0.7 - 0.5) + (0.8 - 0.6)) / 2)


def test_a_task_that_comes_again_counts_after_its_last_visit() -> None:
    rows = [row(a=0.2), row(a=0.3, b=0.6), row(a=0.8, b=0.1)]
    twice = ScoreMatrix(rows, ["a", "b"], latest={"a": 3})
    joint = ScoreMatrix([row(a=0.9, b=0.9)], ["a", "b"], setting="joint")
    assert intransigence(twice, joint).value == pytest.approx((0.1 + 0.3) / 2)


def test_a_cell_that_is_missing_is_named() -> None:
    joint = ScoreMatrix([row(a=0.9)], ["a"], setting="joint")
    assert intransigence(SEQUENCE, joint).not_measured == "b of the reference"
    assert intransigence(ScoreMatrix([row(a=0.5)], ["a", "b"]), SEQUENCE).not_measured == (
        "b of this run"
    )
    base = ScoreMatrix([], ["a"], row(a=0.5), "base")
    assert intransigence(base, SEQUENCE).value is None
