from __future__ import annotations

import math
import random
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from cl_bench.scores.uncertainty import (
    compare_paired,
    compare_seeds,
    minimum_detectable_difference,
    standard_error,
    t_quantile,
)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_standard_error(values: list[float]) -> None:
    assert standard_error(values) == pytest.approx(stdev(values) / len(values) ** 0.5, abs=1e-12)


def test_standard_error_needs_two_values() -> None:
    assert standard_error([]) is None and standard_error([1.0]) is None


PRINTED_TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 30: 2.042}


@pytest.mark.parametrize(("df", "value"), [*PRINTED_TABLE.items(), (math.inf, 1.960)])
def test_t_quantile(df: float, value: float) -> None:
    assert t_quantile(df) == pytest.approx(value, rel=2e-3)
    assert t_quantile(df + 0.9) == t_quantile(df)


def test_minimum_detectable_difference() -> None:
    assert minimum_detectable_difference(0.01) == pytest.approx(
        2.8016 * 0.01 * math.sqrt(2), rel=1e-4
    )
    assert minimum_detectable_difference(0.03, 0.04) == pytest.approx(2.8016 * 0.05, rel=1e-4)
    assert minimum_detectable_difference(0.01, correlation=0.5) == pytest.approx(0.028016, rel=1e-4)
    assert minimum_detectable_difference(0.01, correlation=1) == 0
    with pytest.raises(ValueError, match="correlation 2"):
        minimum_detectable_difference(0.01, correlation=2)


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    rng = random.Random(1)
    n, true = 100, minimum_detectable_difference(1 / 10, correlation=0)
    found = 0
    for _ in range(400):
        a = [rng.gauss(true, 1) for _ in range(n)]
        b = [rng.gauss(0, 1) for _ in range(n)]
        found += compare_paired(documents(a), documents(b)).resolved
    assert 0.74 < found / 400 < 0.86


def documents(*columns: list[float]) -> dict[str, list[tuple[int, float]]]:
    return {f"task{i}": list(enumerate(column)) for i, column in enumerate(columns)}


def test_paired_comparison_of_two_tasks() -> None:
    a = documents([1, 1, 0, 1], [0.5, 0.75])
    b = documents([1, 0, 0, 0], [0.25, 0.25])
    result = compare_paired(a, b)
    assert result.difference == pytest.approx((0.5 + 0.375) / 2)
    parts = [stdev([0, 1, 0, 1]) / 2, stdev([0.25, 0.5]) / math.sqrt(2)]
    assert result.stderr == pytest.approx(math.hypot(*parts) / 2)
    assert result.n == {"task0": 4, "task1": 2} and result.n_unmatched == 0
    assert result.low is not None and result.high is not None
    assert (result.low + result.high) / 2 == pytest.approx(result.difference)
    assert result.to_json()["resolved"] == result.resolved
    reverse = compare_paired(b, a)
    assert reverse.difference == -result.difference and reverse.low == pytest.approx(-result.high)


def test_documents_are_matched_by_id() -> None:
    a = {"task": [(3, 1.0), (1, 0.0), (2, 1.0)]}
    b = {"task": [(1, 0.0), (2, 0.0), (3, 0.0), (9, 1.0)]}
    result = compare_paired(a, b)
    assert result.difference == pytest.approx(2 / 3) and result.n_unmatched == 1
    with pytest.raises(ValueError, match="share no document"):
        compare_paired({"task": [(1, 0.0)]}, {"task": [(2, 0.0)]})
    with pytest.raises(ValueError, match="different tasks"):
        compare_paired({"x": [(1, 0.0)]}, {"y": [(1, 0.0)]})
    with pytest.raises(ValueError, match="2 seeds on one side"):
        compare_seeds([a, a], [b])


def test_one_document_or_equal_models_resolve_nothing() -> None:
    single = compare_paired(documents([1]), documents([0]))
    assert single.stderr is None and single.low is None and not single.resolved
    equal = compare_paired(documents([1, 0, 1]), documents([1, 0, 1]))
    assert equal.difference == 0 and not equal.resolved


def test_seeds_that_disagree_resolve_nothing() -> None:
    rng = random.Random(0)
    zeros = documents([0.0] * 200)

    def shifted(by: float) -> dict[str, list[tuple[int, float]]]:
        return documents([by + rng.gauss(0, 0.1) for _ in range(200)])

    one = compare_paired(shifted(0.1), zeros)
    assert one.resolved and one.n_seeds == 1
    agreeing = compare_seeds([shifted(0.1), shifted(0.1), shifted(0.1)], [zeros] * 3)
    assert agreeing.resolved and agreeing.n_seeds == 3
    disagreeing = compare_seeds([shifted(0.25), shifted(-0.05)], [zeros] * 2)
    assert disagreeing.difference == pytest.approx(0.1, abs=0.02) and not disagreeing.resolved


def test_interval_covers_the_truth() -> None:
    rng = random.Random(2)
    covered = 0
    for _ in range(300):
        a = documents([rng.random() < 0.6 for _ in range(50)], [rng.random() for _ in range(40)])
        b = documents([rng.random() < 0.5 for _ in range(50)], [rng.random() for _ in range(40)])
        result = compare_paired(a, b)
        assert result.low is not None and result.high is not None
        covered += result.low <= mean([0.1, 0]) <= result.high
    assert 0.91 < covered / 300 < 0.985


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.0, 1.0, 0.25]), min_size=2, max_size=60))
def test_interval_and_p_value_never_disagree(changes: list[float]) -> None:
    a = documents(changes)
    result = compare_paired(a, documents([0.0] * len(changes)))
    assert result.p_value is not None
    assert result.resolved == (result.p_value < 0.05)
    if len(set(changes)) > 1 and sum(changes):
        expected = ttest_1samp(changes, 0).pvalue
        assert result.p_value == pytest.approx(expected, rel=1e-6)
