"""Rank correlation of two lists of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from cl_bench.scores.uncertainty import mean

FEWEST = 3
"""Two points always lie in some order."""


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rho, -1 to 1: Pearson's correlation of the ranks, equal values sharing theirs.

    None for fewer than three points, and where all values of one list are equal.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs")
    if len(first) < FEWEST:
        return None
    ours, theirs = (_centred(ranks(values)) for values in (first, second))
    norms = sqrt(sum(a * a for a in ours) * sum(b * b for b in theirs))
    return sum(a * b for a, b in zip(ours, theirs, strict=True)) / norms if norms else None


def ranks(values: Sequence[float]) -> list[float]:
    """From 1, the smallest first; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for i in order[start:end]:
            found[i] = (start + 1 + end) / 2
        start = end
    return found


def _centred(values: Sequence[float]) -> list[float]:
    middle = mean(values)
    return [value - middle for value in values]
