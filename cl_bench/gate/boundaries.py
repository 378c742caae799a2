"""How far evidence must go at each look so that looking several times errs no more often than once.

A group-sequential test: evidence is a normal z at looks that are fixed before any document is
scored, and alpha is spent in proportion to the information that is in (Lan and DeMets 1983, their
"alpha t"; rho = 1 of Kim and DeMets 1987). Critical values come from integrating the density of
the process over the region where it has not stopped (Armitage, McPherson and Rowe 1969; Jennison
and Turnbull 2000, chapter 19). At one look it is the ordinary one-sided test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

Array = npt.NDArray[np.float64]
NODES = 120
"""Of each integral (Gauss-Legendre)."""
REACH = 8.5
"""Standard deviations below the lowest start that it goes."""
LEVELS = np.logspace(-7, np.log10(0.499), 90)
"""Of which critical values are known; p values between them are interpolated."""
LEAST = float(LEVELS[0])
"""No p value is told to be smaller."""


@dataclass(frozen=True)
class Boundaries:
    """One-sided tests at several looks."""

    times: tuple[float, ...]
    """Information at each look as a share of that of all documents: ascending, above 0, at most 1
    (less where not all documents may be taken)."""

    def critical(self, alpha: float) -> Array:
        """z from which on evidence suffices, by look; float64 [looks]. 0 < alpha < 0.5."""
        return np.array(_critical(self.times, float(alpha)))

    def p_value(self, evidence: Sequence[float]) -> float:
        """The smallest alpha at which one of the looks so far (from the first) stops the test.

        It is below alpha at any look with a chance of at most alpha, and so may be watched as it
        falls; Holm's correction of such p values holds too (Maurer and Bretz 2013).
        """
        found = 1.0
        for z, known in zip(evidence, _table(self.times), strict=False):
            if len(self.times) == 1:
                level = float(ndtr(-z))
            elif z <= known[-1]:
                continue
            else:
                level = float(np.exp(np.interp(-z, -known, np.log(LEVELS))))
            found = min(found, level)
        return max(found, LEAST)

    def power(self, drift: float, alpha: float, scale: float = 1.0) -> float:
        """The chance to stop at some look where z at time 1 has mean `drift` (at t drift sqrt(t)).

        `scale`: of the critical values, where evidence is held against another error than its own.
        """
        critical = scale * np.sqrt(self.times) * self.critical(alpha)
        stopped = 0.0
        density: _Density | None = None
        for look, time in enumerate(self.times):
            before = self.times[look - 1] if look else 0.0
            step = _Step(density, time - before, drift)
            stopped += step.beyond(float(critical[look]))
            density = step.below(float(critical[look]))
        return stopped

    def drift(self, power: float, alpha: float, scale: float = 1.0) -> float:
        """The drift that has this power (0.5 to 0.999)."""
        return _drift(self.times, power, alpha, scale)


@dataclass(frozen=True)
class _Density:
    """Of the process where it has not stopped: weights (density times step) at points."""

    points: Array
    weights: Array


@dataclass(frozen=True)
class _Step:
    """From one look to the next, `time` later; from 0 where there was none."""

    before: _Density | None
    time: float
    drift: float = 0.0

    def beyond(self, bound: float) -> float:
        """The chance to be above `bound` then, and not to have stopped before."""
        mean, spread = self.drift * self.time, np.sqrt(self.time)
        if self.before is None:
            return float(ndtr((mean - bound) / spread))
        return float(self.before.weights @ ndtr((self.before.points + mean - bound) / spread))

    def below(self, bound: float) -> _Density:
        """The density up to `bound`."""
        mean, spread = self.drift * self.time, np.sqrt(self.time)
        starts = np.zeros(1) if self.before is None else self.before.points
        masses = np.ones(1) if self.before is None else self.before.weights
        low = float(starts.min() + mean - REACH * spread)
        nodes, shares = _nodes()
        half = (bound - low) / 2
        points = low + half * (nodes + 1)
        away = (points[:, None] - starts[None, :] - mean) / spread
        density = np.exp(-(away**2) / 2) @ masses / (np.sqrt(2 * np.pi) * spread)
        return _Density(points, density * shares * half)


@lru_cache
def _nodes() -> tuple[Array, Array]:
    nodes, shares = np.polynomial.legendre.leggauss(NODES)
    return nodes, shares


@lru_cache(maxsize=4096)
def _critical(times: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    found: list[float] = []
    density: _Density | None = None
    for look, time in enumerate(times):
        before = times[look - 1] if look else 0.0
        spent = alpha * (time - before)
        if look == len(times) - 1:
            spent = alpha * (1 - before)  # the last look has all that is left
        step = _Step(density, time - before)
        root = np.sqrt(time)
        bound = float(-ndtri(spent) * root) if density is None else _bound(step, spent, root)
        found.append(bound / root)
        density = step.below(bound)
    return tuple(found)


@lru_cache
def _table(times: tuple[float, ...]) -> Array:
    """Critical values [looks, levels], falling along the levels."""
    found: Array = np.array([_critical(times, float(level)) for level in LEVELS]).T
    return found


@lru_cache(maxsize=4096)
def _drift(times: tuple[float, ...], power: float, alpha: float, scale: float) -> float:
    known = Boundaries(times)
    return float(brentq(lambda x: known.power(x, alpha, scale) - power, -20.0, 40.0, xtol=1e-6))


def _bound(step: _Step, spent: float, root: float) -> float:
    """Where the chance to be beyond is what is spent."""

    def excess(bound: float) -> float:
        return float(np.log(max(step.beyond(bound), 1e-300)) - np.log(spent))

    return float(brentq(excess, -8 * root, 12 * root, xtol=1e-11))
