"""What a plan costs in bytes, from parameter shapes alone (no torch)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shapes:
    """Parameter shapes of a model (a tied weight once), and which belong to its embeddings."""

    parameters: Mapping[str, tuple[int, ...]]
    embeddings: frozenset[str] = frozenset()
    dtype_bytes: int = 2


@dataclass(frozen=True)
class Cost:
    """Bytes."""

    weights: int
    gradients: int
    optimiser: int


def full_cost(shapes: Shapes) -> Cost:
    """Everything trained."""
    n = sum(math.prod(s) for s in shapes.parameters.values())
    return Cost(n * shapes.dtype_bytes, 4 * n, 12 * n)


def masked_cost(shapes: Shapes, trained: float, granularity: str, embeddings: bool) -> Cost:
    """A share of each block matrix and vector trained."""
    n = sum(math.prod(s) for s in shapes.parameters.values())
    k = 0
    for name, shape in shapes.parameters.items():
        if name not in shapes.embeddings:
            k += round(trained * math.prod(shape))
        elif embeddings:
            k += math.prod(shape)
    index = 4 * k if granularity == "elements" else 0
    return Cost(n * shapes.dtype_bytes, 4 * k, 12 * k + index)


def lora_cost(shapes: Shapes, r: int, targets: Sequence[str]) -> Cost:
    """Adapters of rank r on the named projections."""
    n = sum(math.prod(s) for s in shapes.parameters.values())
    k = sum(
        r * sum(shape)
        for name, shape in shapes.parameters.items()
        if len(shape) == 2 and name.rsplit(".", 2)[-2] in set(targets)
    )
    return Cost((n + k) * shapes.dtype_bytes, 4 * k, 12 * k)
