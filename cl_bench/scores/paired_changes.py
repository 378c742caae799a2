"""Paired differences of two models, whose interval is the inversion of their test.

Scores that are right or wrong are tested by McNemar's test, and their interval holds exactly those
differences that the same score test does not reject (Tango 1998). Graded scores have Student's t.
Several tasks are strata of one difference, the weighted mean of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum, inf, sqrt
from typing import Protocol

from cl_bench.scores.uncertainty import (
    Comparison,
    mean,
    minimum_detectable_difference,
    standard_error,
    t_test,
)

LEVEL = 0.05
"""Two-sided."""
_HALVINGS = 44
"""Of a range of differences; what is left of it is below 1e-13."""


class Stratum(Protocol):
    """The documents of one task in two scorings."""

    @property
    def n(self) -> int:
        """How many there are, or resamples of them."""

    @property
    def difference(self) -> float:
        """Mean of after minus before, -1 to 1."""

    @property
    def df(self) -> float:
        """Degrees of freedom of the variance; infinite where it is not estimated apart."""

    def variance(self, true: float) -> float | None:
        """Of `difference`, were `true` the true one; None where it cannot be known."""


@dataclass(frozen=True)
class RightOrWrong:
    """Documents that are right or wrong on each side."""

    forgotten: int
    learned: int
    n: int

    @property
    def difference(self) -> float:
        """(learned - forgotten) / n."""
        return (self.learned - self.forgotten) / self.n

    @property
    def df(self) -> float:
        """Infinite: the normal approximation of the score test."""
        return inf

    def variance(self, true: float) -> float:
        """With the most likely rates of forgotten and learned whose difference is `true`.

        (2 q + true (1 - true)) / n, where q, the rate of forgotten documents, is the larger root of
        2n q^2 + ((2n - learned + forgotten) true - learned - forgotten) q
        - forgotten true (1 - true) = 0 (Tango 1998, equation 6). At 0 it is (forgotten + learned) /
        n^2, so that the test is McNemar's without correction.
        """
        a, product = 2 * self.n, true * (1 - true)
        b = (a - self.learned + self.forgotten) * true - self.learned - self.forgotten
        root = sqrt(max(0.0, b * b + 4 * a * self.forgotten * product))
        rate = (root - b) / (2 * a)
        return max(0.0, 2 * rate + product) / self.n


@dataclass(frozen=True)
class Graded:
    """Documents with any scores, by their differences (after minus before)."""

    values: Sequence[float]

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.values)

    @cached_property
    def difference(self) -> float:
        """Their mean."""
        return mean(self.values)

    @property
    def df(self) -> float:
        """n - 1."""
        return len(self.values) - 1

    @cached_property
    def _stderr(self) -> float | None:
        return standard_error(self.values)

    def variance(self, true: float) -> float | None:
        """The sample's, whatever the true difference is."""
        return None if self._stderr is None else self._stderr**2


@dataclass(frozen=True)
class Single:
    """One document of graded scores, whose variance is that of the documents of other members."""

    difference: float
    spread: float
    df: float
    n: int = 1

    def variance(self, true: float) -> float:
        """Whatever the true difference is."""
        return self.spread


Part = tuple[float, Stratum]
"""A stratum behind its weight."""
Sides = tuple[Sequence[float], Sequence[float]]
"""Scores 0-1 before and after, in one order of documents."""


def strata_of(members: Mapping[str, Sides], graded: bool) -> dict[str, Stratum]:
    """The documents of a task, by member. `graded`: whether scores may lie between right and wrong.

    Those of a member where any does also may. Of graded scores a member of one document has the
    pooled variance of the others' documents; where all have one, that of all (an upper bound), as
    `scores.cells.stratified_mean` has it.
    """
    found: dict[str, Stratum] = {}
    for name, (before, after) in members.items():
        changes = [b - a for a, b in zip(before, after, strict=True)]
        if graded or {*before, *after} - {0, 1}:
            found[name] = Graded(changes)
        else:
            found[name] = RightOrWrong(changes.count(-1), changes.count(1), len(changes))
    return found | _singles({n: each for n, each in found.items() if isinstance(each, Graded)})


def _singles(graded: Mapping[str, Graded]) -> dict[str, Single]:
    """Those of one document, with a variance if anything tells one."""
    if len(graded) < 2 or all(each.n > 1 for each in graded.values()):
        return {}
    errors = [
        (each.df, each.n * v) for each in graded.values() if (v := each.variance(0)) is not None
    ]
    if not errors:
        whole = [each.difference for each in graded.values()]
        errors = [(len(whole) - 1, len(whole) * (standard_error(whole) or 0.0) ** 2)]
    df = fsum(df for df, _ in errors)
    pooled = fsum(df * variance for df, variance in errors) / df
    single = {name: each.difference for name, each in graded.items() if each.n == 1}
    # One estimate serves them all: together they have its degrees of freedom, not each.
    return {name: Single(value, pooled, df / len(single)) for name, value in single.items()}


def compare_tasks(
    tasks: Mapping[str, Mapping[str, Stratum]], seeds: Sequence[float] = ()
) -> Comparison:
    """The unweighted mean over tasks of the unweighted mean over each one's members."""
    strata = {
        f"{name} {member}": stratum
        for name, members in tasks.items()
        for member, stratum in members.items()
    }
    weights = {
        f"{name} {member}": 1 / len(tasks) / len(members)
        for name, members in tasks.items()
        for member in members
    }
    return compare_changes(strata, weights, seeds)


def compare_changes(
    strata: Mapping[str, Stratum],
    weights: Mapping[str, float] | None = None,
    seeds: Sequence[float] = (),
) -> Comparison:
    """The weighted mean of the strata's differences; by default their unweighted mean.

    A difference x is rejected where (difference - x)^2 / sum of w^2 variance(x) is beyond the 5 %
    quantile, with x as the difference of every stratum in its variance (as Miettinen and Nurminen
    1985 have it for unpaired rates): of the normal distribution for right or wrong scores, of
    Student's t with Welch and Satterthwaite's degrees of freedom where graded ones take part. `p`
    is that of x = 0 and the interval holds what is not rejected, so that it excludes 0 exactly
    where p < 0.05. Weights sum to 1. `seeds`: the differences of several seeds, whose strata hold
    the means over seeds; the variance of their mean is added, an upper bound, as it holds a share
    of the documents'. Raises ValueError without strata.
    """
    if not strata:
        raise ValueError("there is nothing to compare")
    shares = weights or dict.fromkeys(strata, 1 / len(strata))
    parts = [(shares[name], stratum) for name, stratum in strata.items()]
    difference = fsum(weight * stratum.difference for weight, stratum in parts)
    sizes = {name: stratum.n for name, stratum in strata.items()}
    if len(seeds) > 1:
        parts.append((1.0, Graded(seeds)))
    count = max(1, len(seeds))
    found = spread(parts, difference)
    if found is None:
        return Comparison(difference, None, None, None, sizes, 0, count, None)
    return Comparison(
        difference,
        found[0],
        _bound(parts, difference, -1.0),
        _bound(parts, difference, 1.0),
        sizes,
        0,
        count,
        # Nothing is known of how small a difference shows where no document changed.
        _detectable(parts) or None,
        _p(parts, difference, 0.0),
        None if found[1] == inf else found[1],
    )


def spread(parts: Sequence[Part], true: float) -> tuple[float, float] | None:
    """Standard error of the difference, were `true` the true one, and its degrees of freedom."""
    variances: list[float] = []
    shares: list[float] = []
    for weight, stratum in parts:
        variance = stratum.variance(true)
        if variance is None:
            return None
        variances.append(weight**2 * variance)
        shares.append(variances[-1] ** 2 / stratum.df)
    total, spread = fsum(variances), fsum(shares)
    # The smallest addition, so that a whole number of degrees is not rounded down.
    return sqrt(total), total**2 / spread + 1e-9 if spread else inf


def _p(parts: Sequence[Part], difference: float, true: float) -> float:
    found = spread(parts, true)
    assert found is not None  # it depends on `true` in no stratum whether there is one
    return t_test(difference - true, *found)


def _bound(parts: Sequence[Part], difference: float, end: float) -> float:
    """The last difference from the observed one towards `end` (-1 or 1) that is not rejected."""
    kept, beyond = difference, end * max(1.0, abs(difference))
    while _p(parts, difference, beyond) >= LEVEL:
        if all(isinstance(stratum, RightOrWrong) for _, stratum in parts):
            return end
        beyond *= 2  # a graded score's interval may reach beyond what scores can differ by
    if kept < 0 < beyond or beyond < 0 < kept:
        # 0 is asked first, so that the interval cannot differ from p on it.
        if _p(parts, difference, 0.0) < LEVEL:
            beyond = 0.0
        else:
            kept = 0.0
    for _ in range(_HALVINGS):
        middle = (kept + beyond) / 2
        if _p(parts, difference, middle) < LEVEL:
            beyond = middle
        else:
            kept = middle
    return kept


def _detectable(parts: Sequence[Part]) -> float:
    """The smallest true difference that the test finds 80 % of the time, from its error at 0."""
    found = spread(parts, 0.0)
    assert found is not None
    return minimum_detectable_difference(found[0], 0.0)


def least_margin(sizes: Mapping[str, int], critical: float) -> float:
    """The smallest margin that right or wrong documents can show, even if not one of them changes.

    `sizes`: documents by member. The score test's z is then sqrt(margin / (1 - margin) / shares).
    """
    shares = fsum(1 / len(sizes) ** 2 / n for n in sizes.values())
    return critical**2 * shares / (1 + critical**2 * shares)
