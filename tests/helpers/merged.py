"""Merges of one tensor written out in Python's floats, as lists of its entries."""

from __future__ import annotations

import math
from collections.abc import Sequence

Entries = Sequence[float]


def minus(end: Entries, start: Entries) -> list[float]:
    return [b - a for a, b in zip(start, end, strict=True)]


def on_the_line(start: Entries, end: Entries, share: float) -> list[float]:
    return [(1 - share) * a + share * b for a, b in zip(start, end, strict=True)]


def on_the_arc(start: Entries, end: Entries, share: float) -> list[float]:
    sizes = [math.sqrt(math.fsum(x * x for x in v)) for v in (start, end)]
    product = math.fsum(a * b for a, b in zip(start, end, strict=True))
    cosine = product / (sizes[0] * sizes[1])
    if abs(cosine) > 0.9995:
        return on_the_line(start, end, share)
    angle = math.acos(cosine)
    weights = [math.sin(x * angle) / math.sin(angle) for x in (1 - share, share)]
    return [weights[0] * a + weights[1] * b for a, b in zip(start, end, strict=True)]


def trimmed(vector: Entries, density: float) -> list[float]:
    """The largest entries; of equal ones the first."""
    count = max(1, int(density * len(vector)))
    order = sorted(range(len(vector)), key=lambda i: (-abs(vector[i]), i))
    chosen = set(order[:count])
    return [value if i in chosen else 0.0 for i, value in enumerate(vector)]


def agreed(vectors: Sequence[Entries], mean: bool = True) -> list[float]:
    """Where the signs agree with that of the sum."""
    found = []
    for values in zip(*vectors, strict=True):
        sign = 1 if sum(values) >= 0 else -1
        same = [value for value in values if value * sign > 0]
        found.append(sum(same) / (len(same) if mean and same else 1))
    return found


def ties(base: Entries, ends: Sequence[Entries], density: float) -> list[float]:
    vectors = [trimmed(minus(end, base), density) for end in ends]
    return [a + change for a, change in zip(base, agreed(vectors), strict=True)]


def pruned_by_size(before: Entries, after: Entries, density: float) -> list[float]:
    """FAPM: the largest |d| - mean|w| |d| / |w| keep their change."""
    mean = sum(abs(w) for w in before) / len(before)
    scores = [
        abs(b - a) - mean * abs(b - a) / abs(a) if a else -math.inf
        for a, b in zip(before, after, strict=True)
    ]
    order = sorted(range(len(before)), key=lambda i: -scores[i])
    kept = set(order[: int(density * len(before))])
    return [after[i] if i in kept else a for i, a in enumerate(before)]
