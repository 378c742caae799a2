"""Paired differences: published numbers, plain oracles, intervals that agree with their tests."""

from __future__ import annotations

from itertools import product
from math import comb
from statistics import mean, variance

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, t, ttest_1samp

from cl_bench.scores.paired_changes import (
    Graded,
    RightOrWrong,
    Stratum,
    compare_changes,
    compare_tasks,
    strata_of,
)
from cl_bench.scores.uncertainty import Comparison
from tests.helpers.likeliest import likeliest_variance


@st.composite
def tables(draw: st.DrawFn) -> RightOrWrong:
    n = draw(st.integers(1, 300))
    forgotten = draw(st.integers(0, n))
    return RightOrWrong(forgotten, draw(st.integers(0, n - forgotten)), n)


graded = st.lists(st.sampled_from([-1.0, -0.3, 0.0, 0.25, 1.0]), min_size=2, max_size=12)
strata = st.lists(st.one_of(tables(), graded.map(Graded)), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(strata)
def test_the_interval_excludes_0_exactly_where_the_test_rejects(found: list[Stratum]) -> None:
    compared = compare_changes({str(i): each for i, each in enumerate(found)})
    assert compared.low is not None and compared.high is not None
    assert compared.p_value is not None
    assert compared.low <= compared.difference <= compared.high
    assert compared.resolved == (compared.p_value < 0.05)


def test_a_published_table() -> None:
    """Airway hyper-responsiveness before and after a transplantation: of 21 children 7 and 1
    changed. McNemar's p .034, Tango's interval .026 to .517 (Fagerland, Lydersen, Laake 2014)."""
    compared = only(RightOrWrong(7, 1, 21))
    assert compared.p_value == pytest.approx(0.034, abs=5e-4)
    assert compared.low == pytest.approx(-0.517, abs=5e-4)
    assert compared.high == pytest.approx(-0.026, abs=5e-4)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_p_is_mcnemar_s(forgotten: int, learned: int, same: int) -> None:
    changed = forgotten + learned
    if not changed + same:
        return
    p = only(RightOrWrong(forgotten, learned, changed + same)).p_value
    expected = chi2.sf((learned - forgotten) ** 2 / changed, 1) if changed else 1.0
    assert p == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("true", [-0.6, -0.2, 0.05, 0.3])
@pytest.mark.parametrize("table", [(3, 5, 20), (0, 4, 30), (2, 0, 9), (6, 6, 12)])
def test_the_variance_is_that_of_the_likeliest_rates(
    table: tuple[int, int, int], true: float
) -> None:
    """Against a search of the likelihood of the table under the difference."""
    expected = likeliest_variance(*table, true)
    assert RightOrWrong(*table).variance(true) == pytest.approx(expected, abs=1e-6)


def test_graded_scores_have_student_s_t() -> None:
    values = [0.5, -0.25, 0.0, 0.75, 0.1]
    compared, reference = only(Graded(values)), ttest_1samp(values, 0)
    assert compared.p_value == pytest.approx(reference.pvalue)
    low, high = reference.confidence_interval(0.95)
    assert compared.low == pytest.approx(low) and compared.high == pytest.approx(high)
    assert only(Graded([0.5])).low is None and only(Graded([0.5])).p_value is None
    wide = only(Graded([-1.0, 1.0]))
    assert wide.high == pytest.approx(12.706, abs=1e-2)  # beyond what scores can differ by


def test_strata_have_weights() -> None:
    two = {"a": RightOrWrong(6, 1, 30), "b": RightOrWrong(2, 2, 10)}
    compared = compare_changes(two, {"a": 0.75, "b": 0.25})
    assert compared.difference == pytest.approx(0.75 * -5 / 30)
    z = compared.difference / (0.75**2 * 7 / 30**2 + 0.25**2 * 4 / 10**2) ** 0.5
    assert compared.p_value == pytest.approx(chi2.sf(z**2, 1))
    # As one large sample, where the strata are alike: nothing changed in many small ones.
    many = compare_changes({str(i): RightOrWrong(0, 0, 5) for i in range(57)})
    assert many.high == pytest.approx(only(RightOrWrong(0, 0, 285)).high)
    assert many.high is not None and 0 < many.high < 0.014


def test_it_errs_as_often_as_it_says() -> None:
    """Every table of 25 documents with its chance: how often the interval holds the truth."""
    n, held = 25, {}
    found = {
        (b, c): only(RightOrWrong(b, c, n))
        for b, c in product(range(n + 1), repeat=2)
        if b + c <= n
    }
    for rates in ((0.1, 0.1), (0.3, 0.3), (0.05, 0.25), (0.2, 0.3), (0.01, 0.1)):
        true = rates[1] - rates[0]
        held[rates] = sum(
            comb(n, b) * comb(n - b, c) * rates[0] ** b * rates[1] ** c
            * (1 - sum(rates)) ** (n - b - c)
            for (b, c), each in found.items()
            if each.low is not None and each.high is not None and each.low <= true <= each.high
        )  # fmt: skip
    assert all(0.935 < share < 0.99 for share in held.values()), held


def only(stratum: Stratum) -> Comparison:
    return compare_changes({"task": stratum})


def test_seeds_add_their_variance() -> None:
    values, seeds = [0.5, -0.25, 0.0, 0.75, 0.1], [0.1, 0.3, 0.26]
    compared = compare_tasks({"task": {"a": Graded(values)}}, seeds)
    parts = [(variance(values) / 5, 4), (variance(seeds) / 3, 2)]
    total = sum(part for part, _ in parts)
    df = total**2 / sum(part**2 / n for part, n in parts)
    assert compared.stderr == pytest.approx(total**0.5) and compared.n_seeds == 3
    assert compared.df == pytest.approx(df)
    half = t(int(df)).ppf(0.975) * total**0.5
    assert compared.high is not None and compared.high - mean(values) == pytest.approx(half)


def test_members_of_one_document_have_the_others_variance() -> None:
    """Of graded scores; right or wrong ones need none."""
    several = ([0.2, 0.4, 0.9], [0.1, 0.8, 0.3])
    found = strata_of({"a": several, "b": ([0.5], [0.25]), "c": ([0.1], [0.9])}, graded=True)
    changes = [b - a for a, b in zip(*several, strict=True)]
    assert [each.variance(0) for each in found.values()] == pytest.approx(
        [variance(changes) / 3, variance(changes), variance(changes)]
    )
    assert [each.df for each in found.values()] == [2, 1, 1]
    single = strata_of({str(x): ([0.5], [0.5 + x]) for x in (0.1, 0.2, 0.4)}, graded=True)
    error = compare_changes(single).stderr
    assert error is not None and error**2 == pytest.approx(variance([0.1, 0.2, 0.4]) / 3)
    assert compare_changes(single).df == pytest.approx(2)
    right = strata_of({"a": ([1.0], [0.0]), "b": ([0.0, 1.0], [1.0, 1.0])}, graded=False)
    assert right == {"a": RightOrWrong(1, 0, 1), "b": RightOrWrong(0, 1, 2)}
