"""Evidence and intervals against the formulas of others."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, skew, ttest_1samp

from cl_bench.gate.changes import Measured
from cl_bench.scores.paired_changes import (
    Graded,
    RightOrWrong,
    compare_changes,
    least_margin,
)
from tests.helpers.likeliest import likeliest_variance


@pytest.mark.parametrize("table", [(7, 1, 21), (3, 9, 200), (0, 0, 60), (12, 0, 80), (30, 4, 150)])
@pytest.mark.parametrize("margin", [0.0, 0.02, 0.1])
def test_evidence_is_tango_s(table: tuple[int, int, int], margin: float) -> None:
    forgotten, learned, n = table
    found = Measured.of({"task": RightOrWrong(*table)}).evidence(margin)
    variance = likeliest_variance(*table, -margin)
    if found is None:
        assert margin == 0 and not forgotten + learned
        return
    z = (margin - (forgotten - learned) / n) / sqrt(variance)
    if z < -1:
        turned = n * variance + margin**2
        rates = {-1: (turned + margin) / 2, 1: (turned - margin) / 2, 0: 1 - turned}
        third = sum(rate * (-change - margin) ** 3 for change, rate in rates.items())
        a = max(0.0, third / sqrt(n) / (n * variance) ** 1.5) / 6
        z += a * (z**2 - 1) + a**2 * (z**3 + 1) / 3
    assert found == pytest.approx(z, rel=1e-4)


def test_the_first_documents_fail_no_more_often_than_is_said() -> None:
    """184 documents at the margin, to the last digit that 200,000 draws have."""
    generator = np.random.default_rng(1)
    counts = generator.multinomial(184, [0.0695, 0.0195, 0.911], 200_000)
    tables, times = np.unique(counts[:, :2], axis=0, return_counts=True)
    for alpha in (0.05, 0.005):
        failed = [
            Measured.of({"task": RightOrWrong(int(f), int(g), 184)}).evidence(0.05)
            < -norm.isf(alpha)
            for f, g in tables
        ]
        assert times[failed].sum() / times.sum() == pytest.approx(alpha, rel=0.1)


@pytest.mark.parametrize("values", [[0.5, -0.25, 0.0, 0.25, -0.5], [0.5, -0.25, 0.0, 0.75, 0.1]])
def test_of_graded_scores_it_is_student_s_corrected_for_skewness(values: list[float]) -> None:
    found = Measured.of({"task": Graded(values)})
    for margin in (0.1, -0.4):
        z = norm.isf(ttest_1samp(values, -margin, alternative="greater").pvalue)
        a = skew(values) / sqrt(len(values)) / 3
        assert found.evidence(margin) == pytest.approx(z + a / 2 + a * z**2 + a**2 * z**3 / 3)
    if skew(values) == 0:
        plain = ttest_1samp(values, -0.1, alternative="greater").pvalue
        assert norm.sf(found.evidence(0.1)) == pytest.approx(plain)


def test_what_says_nothing_is_no_evidence() -> None:
    assert Measured.of({"task": Graded([0.5])}).evidence(0.1) is None
    assert Measured.of({"task": Graded([-0.5, -0.5])}).evidence(0.1) is None
    same = Measured.of({"task": Graded([0.0] * 60)}).evidence(0.1)
    assert same == Measured.of({"task": RightOrWrong(0, 0, 60)}).evidence(0.1)


def test_the_interval_is_that_of_the_two_sided_test() -> None:
    strata = {"a": RightOrWrong(7, 2, 50), "b": RightOrWrong(1, 4, 30)}
    found = Measured.of(strata).interval(norm.isf(0.025))
    compared = compare_changes(strata)
    assert found is not None and compared.low is not None and compared.high is not None
    assert found == pytest.approx((-compared.high, -compared.low), abs=1e-6)


@given(st.integers(1, 400), st.integers(1, 400), st.floats(1.2, 3.0))
def test_a_margin_that_unchanged_documents_just_show(a: int, b: int, critical: float) -> None:
    least = least_margin({"a": a, "b": b}, critical)
    same = Measured.of({"a": RightOrWrong(0, 0, a), "b": RightOrWrong(0, 0, b)})
    assert same.evidence(least) == pytest.approx(critical, rel=1e-6)


def test_the_mean_of_capabilities_weighs_them_alike() -> None:
    one = Measured.of({"a": RightOrWrong(10, 0, 100), "b": RightOrWrong(0, 0, 10)})
    both = Measured.together({"one": one, "two": Measured.of({"c": RightOrWrong(0, 4, 40)})})
    assert both.drop == pytest.approx((0.05 - 0.1) / 2) and both.n == 150
