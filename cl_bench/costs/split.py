"""What one of several processes holds where weights are split over them (`train.shard`).

Matrices, with the gradients, masters and moments of what is trained in them, are divided evenly;
vectors and adapters are not. In front of its part a process has embeddings and head whole while it
computes, and two decoder layers: the one that is computed, and the next, which is on its way. Of
rows that a method chooses some processes have more than others: the mean is counted.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace

from cl_bench.costs.shapes import Shapes
from cl_bench.costs.total import Total

LAYERS = 2
"""Decoder layers that are whole at once."""
_LAYER = re.compile(r".*?\.\d+\.")


def split_total(total: Total, shapes: Shapes, processes: int, fetched: bool = False) -> Total:
    """The same stage as one of `processes` holds it; what is on disk stays as it is.

    `fetched`: its part of the weights is in main memory, from where layers are put together.
    """
    if processes == 1 and not fetched:
        return total
    base, added = total.base, total.added
    never = base.unsplit

    def part(whole: int, unsplit: int) -> int:
        return unsplit + -(-(whole - unsplit) // processes)

    gathered = _gathered(base.grown or shapes)
    own = part(base.weights, never.weights)
    main = own - never.weights if fetched else 0
    memory = added.memory
    passes = tuple(
        replace(one, held=one.held - one.split + part(one.split, 0)) for one in added.work.passes
    )
    return replace(
        total,
        base=replace(
            base,
            weights=own - main + gathered,
            gradients=part(base.gradients, never.gradients),
            # A whole weight may be its own master, a part of one is not.
            optimiser=part(base.optimiser + never.own_masters, never.optimiser),
            indices=part(base.indices, 0),
        ),
        main=replace(total.main, weights=main),
        added=replace(
            added,
            memory=replace(memory, held=memory.held - memory.split + part(memory.split, 0)),
            work=replace(added.work, passes=passes),
        ),
    )


def _gathered(shapes: Shapes) -> int:
    """Bytes of weights that are whole while a layer is computed."""
    layers: Counter[str] = Counter()
    beside = 0
    for name, shape in shapes.parameters.items():
        if len(shape) < 2:
            continue
        found = _LAYER.match(name)
        if found is None:
            beside += math.prod(shape)
        else:
            layers[found.group()] += math.prod(shape)
    largest = max(layers.values(), default=0)
    return shapes.dtype_bytes * (beside + min(LAYERS, len(layers)) * largest)
