"""What `selection.safetensors` of a stage takes on disk, from parameter shapes alone.

The file is written by training/selections.py and training/kept_scores.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from cl_bench.costs.shapes import Shapes
from cl_bench.models.layouts import Shape

KINDS = ("rows", "columns", "entries")
SAMPLE = 1024
"""Of a matrix's single entries, at most: their own scores are kept beside the sums."""
_HEADER = 75
"""A tensor's dtype, shape and place in the header of the file, its name aside; about."""


def choice_bytes(shapes: Shapes, choices: Callable[[str, Shape], int]) -> int:
    """A bit for each of so many rows, columns or entries of every parameter, and its shape."""
    total = 0
    for name, shape in shapes.parameters.items():
        total += -(-choices(name, shape) // 8) + 8 * len(shape)
        total += 2 * (_HEADER + len(name))
    return total


def score_bytes(
    shapes: Shapes,
    granularity: str,
    scored: Callable[[str], bool],
    halved: Collection[str] = KINDS,
) -> int:
    """Scores of some parameters: in float16, single entries in float32.

    `halved`: the kinds of which those of either half of the examples are kept, too.
    """
    total = 0
    for name in shapes.parameters:
        if scored(name):
            for kind, count in kept_scores(shapes, name, granularity).items():
                times = 3 if kind in halved else 1
                total += times * count * (4 if kind == "entries" else 2)
                total += (_HEADER + len(name)) * (2 if kind in halved else 1)
    return total


def kept_scores(shapes: Shapes, name: str, granularity: str) -> dict[str, int]:
    """How many scores of a parameter are kept, by kind."""
    shape = shapes.parameters[name]
    entries = math.prod(shape)
    if len(shape) < 2 or not entries:
        return {"entries": entries}
    scores = math.prod(shapes.layout(name).score_shape(shape, granularity))
    if scores < entries:
        return {granularity: scores}
    sums = {"rows": entries // shape[-1], "columns": entries // shape[-2]}
    return sums | {"entries": min(entries, SAMPLE)}


def score_memory(shapes: Shapes, granularity: str, scored: Callable[[str], bool]) -> int:
    """Bytes of the same in float64 before they are written: of all examples and of both halves."""
    return 24 * sum(
        sum(kept_scores(shapes, name, granularity).values())
        for name in shapes.parameters
        if scored(name)
    )
