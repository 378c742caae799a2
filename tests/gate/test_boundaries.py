"""Critical values against published ones, integrals and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from cl_bench.gate.boundaries import Boundaries

TENTHS = tuple((np.arange(10) + 1) / 10)


def chance(times: tuple[float, ...], critical: np.ndarray, drift: float = 0.0) -> float:
    """To cross at some look, from the joint normal distribution of all of them."""
    spread = [[np.sqrt(min(a, b) / max(a, b)) for a in times] for b in times]
    mean = drift * np.sqrt(times)
    return 1 - float(multivariate_normal(mean, spread).cdf(critical))


def test_one_look_is_the_ordinary_test() -> None:
    one = Boundaries((1.0,))
    assert one.critical(0.05) == pytest.approx([norm.isf(0.05)])
    assert one.p_value([1.3]) == pytest.approx(norm.sf(1.3))
    assert one.power(2.0, 0.05) == pytest.approx(norm.sf(norm.isf(0.05) - 2.0))
    assert one.drift(0.8, 0.05) == pytest.approx(norm.isf(0.05) + norm.isf(0.2))


@pytest.mark.parametrize("times", [(0.5, 1.0), (0.3, 0.4, 1.0)])
def test_chances_are_those_of_the_joint_distribution(times: tuple[float, ...]) -> None:
    each = Boundaries(times)
    critical = each.critical(0.05)
    assert chance(times, critical) == pytest.approx(0.05, abs=2e-5)
    assert chance(times[:1], critical[:1]) == pytest.approx(0.05 * times[0], abs=1e-6)
    assert chance(times, critical, 2.5) == pytest.approx(each.power(2.5, 0.05), abs=2e-4)


def test_a_p_value_is_below_alpha_at_some_look_with_that_chance() -> None:
    """However long one looks: simulated, 20,000 walks of ten looks."""
    steps = np.random.default_rng(3).standard_normal((20_000, 10)) / np.sqrt(10)
    z = np.cumsum(steps, axis=1) / np.sqrt(TENTHS)
    each = Boundaries(TENTHS)
    for alpha in (0.05, 0.01):
        share = (z >= each.critical(alpha)).any(axis=1).mean()
        assert share == pytest.approx(alpha, abs=4 * np.sqrt(alpha / 20_000))
    for walk in z[:40]:
        crossed = [(walk[: i + 1] >= each.critical(0.05)[: i + 1]).any() for i in range(10)]
        p_values = [each.p_value(list(walk[: i + 1])) for i in range(10)]
        assert [p <= 0.05 for p in p_values] == crossed
        assert p_values == sorted(p_values, reverse=True)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True), st.floats(0.001, 0.2))
def test_all_of_alpha_is_spent_whenever_one_looks(looks: list[int], alpha: float) -> None:
    times = tuple(look / max(looks) for look in sorted(looks))
    each = Boundaries(times)
    assert each.power(0.0, alpha) == pytest.approx(alpha, rel=1e-6)
    critical = each.critical(alpha)
    assert (critical >= norm.isf(alpha) - 1e-9).all()
    assert (each.critical(alpha / 2) > critical).all(), "Holm's correction needs them in order"
    assert each.p_value([0.0] * (len(times) - 1) + [float(critical[-1])]) == pytest.approx(
        alpha, rel=0.02
    )
