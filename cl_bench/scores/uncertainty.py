"""How far a score can be trusted: standard errors, detectable differences, paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import fsum, inf, sqrt
from statistics import NormalDist
from typing import Any

# Per task, the (document id, score 0-1) pairs of one model.
Documents = Mapping[str, Sequence[tuple[Any, float]]]

_LEVEL = 0.975  # two-sided 5 %
_Z = NormalDist().inv_cdf(_LEVEL)
_POWER_Z = NormalDist().inv_cdf(0.8)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean. Raises ZeroDivisionError when there are none."""
    return fsum(values) / len(values)


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean (sample standard deviation / sqrt n); None below two values."""
    n = len(values)
    if n < 2:
        return None
    centre = mean(values)
    return sqrt(fsum((value - centre) ** 2 for value in values) / (n - 1) / n)


def minimum_detectable_difference(
    stderr: float, other_stderr: float | None = None, correlation: float = 0.0
) -> float:
    """The smallest true difference of two scores that a two-sided 5 % test finds 80 % of the time.

    (1.960 + 0.842) times the standard error of the difference, sqrt(a^2 + b^2 - 2 rho a b), on the
    scale of the standard errors. `other_stderr` is `stderr` unless given. `correlation` is that of
    the two models' scores over documents: 0 is the unpaired test; scored on the same documents
    (paired) it is positive. Raises ValueError outside -1 to 1.
    """
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation {correlation} is not between -1 and 1")
    other = stderr if other_stderr is None else other_stderr
    variance = stderr**2 + other**2 - 2 * correlation * stderr * other
    return (_Z + _POWER_Z) * sqrt(max(0.0, variance))


def t_quantile(df: float) -> float:
    """0.975 quantile of Student's t with `df` >= 1 degrees of freedom (rounded down)."""
    from scipy.special import stdtrit

    return _Z if df == inf else float(stdtrit(int(df), _LEVEL))


def t_test(difference: float, stderr: float, df: float) -> float:
    """Two-sided p of Student's t: below 0.05 exactly where the interval of `t_quantile` has no 0.

    1 without a difference; 0 for a difference without any spread.
    """
    from scipy.special import ndtr, stdtr

    if difference == 0:
        return 1.0
    if stderr == 0:
        return 0.0
    t = abs(difference) / stderr
    return float(2 * (ndtr(-t) if df == inf else stdtr(int(df), -t)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number (Holm 1979): below 0.05 where a difference is resolved.

    Of m tests in the order of their p, smallest first, the k-th (from 1) gets
    max over j <= k of min(1, (m - j + 1) p_j). Whatever depends on whatever, the chance of even one
    false claim among all of them stays below 5 %. None stands for no test and counts as none.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for before, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - before) * p))
        found[place] = largest
    return found


def detectable(stderr: float, df: float = inf, comparisons: int = 1) -> float:
    """The smallest true difference that is resolved 80 % of the time, given its standard error.

    (t(1 - 0.025 / m, df) + t(0.8, df)) * stderr, on the scale of `stderr`: the two-sided 5 % test
    of one among m comparisons, as Holm's correction makes it for the first. Approximate for small
    df, where the exact power is that of a noncentral t.
    """
    from scipy.special import ndtri, stdtrit

    level = 1 - (1 - _LEVEL) / comparisons
    if df == inf:
        return float(ndtri(level) + ndtri(0.8)) * stderr
    return float(stdtrit(int(df), level) + stdtrit(int(df), 0.8)) * stderr


@dataclass(frozen=True)
class Comparison:
    """Difference of two models (first minus second), the unweighted mean over tasks, 0-1 scale.

    `low` and `high` bound it with 95 % confidence; they and `stderr` are None when a task has
    fewer than two shared documents.
    """

    difference: float
    stderr: float | None
    low: float | None
    high: float | None
    n: dict[str, int]  # documents compared, by task
    n_unmatched: int  # documents that only one side has
    n_seeds: int  # with 1, the interval says nothing about other seeds
    minimum_detectable_difference: float | None
    p_value: float | None = None
    """Of the same t test as the interval."""
    df: float | None = None
    """Degrees of freedom of that test; None where they are infinite or there is none."""

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0: only then may an ordering be printed."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values, with `resolved`."""
        return {**asdict(self), "resolved": self.resolved}


def compare_paired(first: Documents, second: Documents) -> Comparison:
    """Compare two models document by document; see `compare_seeds`."""
    return compare_seeds([first], [second])


def compare_seeds(first: Sequence[Documents], second: Sequence[Documents]) -> Comparison:
    """Compare two methods on the same documents, over one or more seeds (same order on both sides).

    Differences are averaged over seeds for every document, then over documents, then over tasks.
    Their variance is that of the documents plus, with several seeds, that of the seeds' overall
    differences: an upper bound, as the second holds a share of the first. The interval is
    Student's t with Welch and Satterthwaite's degrees of freedom, so that two seeds that disagree
    resolve nothing. Raises ValueError when the seeds or tasks of the two sides differ, or a task
    has no shared document.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} seeds on one side, {len(second)} on the other")
    tasks = list(first[0])
    if any(set(documents) != set(tasks) for documents in (*first, *second)):
        raise ValueError("the two sides have different tasks")
    per_task = {
        task: _differences([d[task] for d in first], [d[task] for d in second], task)
        for task in tasks
    }
    found = compare_differences({task: differences for task, (differences, _) in per_task.items()})
    return replace(found, n_unmatched=sum(unmatched for _, unmatched in per_task.values()))


def compare_differences(per_task: Mapping[str, Sequence[Sequence[float]]]) -> Comparison:
    """`compare_seeds` where the differences are taken: by task a list a seed, in one order."""
    means = [[mean(seed) for seed in differences] for differences in per_task.values()]
    parts = [_variance_of_mean(_by_document(differences)) for differences in per_task.values()]
    scaled = [part and (part[0] / len(per_task) ** 2, part[1]) for part in parts]
    overall = [mean(seed) for seed in zip(*means, strict=True)]
    if len(overall) > 1:
        scaled.append(_variance_of_mean(overall))
    return _interval(
        mean(overall),
        [part for part in scaled if part is not None] if None not in scaled else None,
        n={task: len(differences[0]) for task, differences in per_task.items()},
        n_unmatched=0,
        n_seeds=len(overall),
    )


def compare_unpaired(
    first: Sequence[tuple[float, float | None]], second: Sequence[tuple[float, float | None]]
) -> Comparison:
    """Two methods from their scores and standard errors alone, a pair a seed: an upper bound.

    The difference of the means over seeds; its variance is the mean squared standard error of each
    side, since all seeds are scored on the same documents, plus the variance of each side's mean
    over seeds. Normal quantiles. No interval where a standard error is not known.
    """
    difference = mean([value for value, _ in first]) - mean([value for value, _ in second])
    errors = [[error for _, error in side] for side in (first, second)]
    if any(error is None for side in errors for error in side):
        return Comparison(difference, None, None, None, {}, 0, len(first), None)
    parts = [(mean([error**2 for error in side if error is not None]), inf) for side in errors]
    spread = [_variance_of_mean([value for value, _ in side]) for side in (first, second)]
    parts += [(part[0], inf) for part in spread if part is not None]
    return _interval(difference, parts, n={}, n_unmatched=0, n_seeds=len(first))


def _differences(
    first: Sequence[Sequence[tuple[Any, float]]],
    second: Sequence[Sequence[tuple[Any, float]]],
    task: str,
) -> tuple[list[list[float]], int]:
    """Per seed the differences over the documents that every seed of both sides has; the rest."""
    sides = [(dict(a), dict(b)) for a, b in zip(first, second, strict=True)]
    ids = [side.keys() for pair in sides for side in pair]
    shared = [key for key in sides[0][0] if all(key in keys for keys in ids)]
    if not shared:
        raise ValueError(f"{task}: the two sides share no document")
    unmatched = len(set().union(*ids)) - len(shared)
    return [[a[key] - b[key] for key in shared] for a, b in sides], unmatched


def _by_document(differences: Sequence[Sequence[float]]) -> Sequence[float]:
    if len(differences) == 1:
        return differences[0]
    return [mean(seeds) for seeds in zip(*differences, strict=True)]


def _variance_of_mean(values: Sequence[float]) -> tuple[float, int] | None:
    error = standard_error(values)
    return None if error is None else (error**2, len(values) - 1)


def _interval(
    difference: float,
    parts: Sequence[tuple[float, float]] | None,
    *,
    n: dict[str, int],
    n_unmatched: int,
    n_seeds: int,
) -> Comparison:
    if parts is None:
        return Comparison(difference, None, None, None, n, n_unmatched, n_seeds, None)
    variance = fsum(part for part, _ in parts)
    spread = fsum(part**2 / df for part, df in parts)
    stderr = sqrt(variance)
    df = variance**2 / spread + 1e-9 if spread else inf  # n - 1 exactly for one sample
    half = t_quantile(df) * stderr
    return Comparison(
        difference,
        stderr,
        difference - half,
        difference + half,
        n,
        n_unmatched,
        n_seeds,
        (_Z + _POWER_Z) * stderr,
        t_test(difference, stderr, df),
        None if df == inf else df,
    )
