"""Many differences at once: Holm, what could be shown, and unpaired errors, against plain loops."""

from __future__ import annotations

import math
import random
from statistics import mean, variance

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

from cl_bench.scores.uncertainty import (
    compare_differences,
    compare_paired,
    compare_unpaired,
    detectable,
    holm,
)


def stepwise(p_values: list[float]) -> list[bool]:
    """Holm's procedure as it is done by hand: the smallest against 5 % / m, and so on."""
    left = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = [False] * len(p_values)
    for step, place in enumerate(left):
        if p_values[place] >= 0.05 / (len(p_values) - step):
            break
        rejected[place] = True
    return rejected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_procedure_does(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(c is not None and p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    for own, by_hand in zip(corrected, stepwise(p_values), strict=True):
        assert own is not None and (own < 0.05 or math.isclose(own, 0.05)) >= by_hand
        assert own >= 0.05 or by_hand or math.isclose(own, 0.05)


def test_what_is_no_test_does_not_count() -> None:
    assert holm([0.03, None, 0.01]) == pytest.approx([0.03, None, 0.02])
    assert holm([]) == [] and holm([None]) == [None]


def test_one_false_claim_among_many_is_rare() -> None:
    """Of twenty comparisons without any difference one at least is claimed 1 time in 20."""
    draw = random.Random(0)
    claimed = 0
    for _ in range(400):
        corrected = holm([draw.random() for _ in range(20)])
        claimed += any(p is not None and p < 0.05 for p in corrected)
    assert 6 <= claimed <= 34  # 20 are expected; 64 % of 400 without correction


@pytest.mark.parametrize(("df", "m"), [(9, 1), (9, 12), (math.inf, 1), (math.inf, 12)])
def test_the_smallest_difference_that_is_shown(df: float, m: int) -> None:
    law = norm if df == math.inf else t(df)
    found = detectable(0.01, df, m)
    assert found == pytest.approx(0.01 * (law.ppf(1 - 0.025 / m) + law.ppf(0.8)))


def test_it_is_shown_4_times_in_5() -> None:
    draw, n = random.Random(1), 50
    true = detectable(1 / math.sqrt(n), n - 1)
    shown = 0
    for _ in range(600):
        first = [(i, draw.gauss(true, 1)) for i in range(n)]
        shown += compare_paired({"a": first}, {"a": [(i, 0.0) for i in range(n)]}).resolved
    assert 0.75 < shown / 600 < 0.85


def test_differences_are_compared_as_documents_are() -> None:
    draw = random.Random(2)
    first = {name: [(i, draw.random()) for i in range(9)] for name in "ab"}
    second = {name: [(i, draw.random()) for i in range(9)] for name in "ab"}
    gaps = {n: [[x - y for (_, x), (_, y) in zip(first[n], second[n], strict=True)]] for n in "ab"}
    assert compare_differences(gaps) == compare_paired(first, second)


def test_unpaired_errors_add_up() -> None:
    """Documents are the same for all seeds, so their error does not shrink with the seeds."""
    first, second = [(0.5, 0.03), (0.7, 0.05)], [(0.4, 0.04)]
    found = compare_unpaired(first, second)
    documents = mean([0.03**2, 0.05**2]) + 0.04**2
    error = math.sqrt(documents + variance([0.5, 0.7]) / 2)
    assert found.difference == pytest.approx(0.2) and found.stderr == pytest.approx(error)
    assert found.low == pytest.approx(0.2 - norm.ppf(0.975) * error)
    assert found.p_value == pytest.approx(2 * norm.sf(0.2 / error))
    assert compare_unpaired([(0.5, None)], second).stderr is None
