"""Spearman's rank correlation against a plain count and another library."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from cl_bench.scores.ranks import ranks, spearman

PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=12)


@given(PAIRS)
def test_it_is_what_scipy_computes(pairs: list[tuple[int, int]]) -> None:
    first, second = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    found = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(float(spearmanr(first, second).statistic), abs=1e-12)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_a_rank_counts_what_is_smaller_and_half_of_what_is_equal(values: list[float]) -> None:
    for value, rank in zip(values, ranks(values), strict=True):
        below, same = sum(v < value for v in values), sum(v == value for v in values)
        assert rank == below + (same + 1) / 2


def test_two_points_have_no_order() -> None:
    assert spearman([1.0, 2.0], [3.0, 5.0]) is None
    assert spearman([1.0, 2.0, 3.0], [math.e, 4.0, 9.0]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no pairs"):
        spearman([1.0], [])
