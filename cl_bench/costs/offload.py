"""What one process holds on its card and in main memory (`train.shard`, `train.offload`).

The one count of both: `plan` shows it, and the tables of docs/scaling.md are made of it.
"""

from __future__ import annotations

from dataclasses import replace

from cl_bench.config.schema import TrainConfig
from cl_bench.costs.shapes import Shapes
from cl_bench.costs.split import split_total
from cl_bench.costs.total import Total


def held_total(total: Total, shapes: Shapes, train: TrainConfig, processes: int = 1) -> Total:
    """The same stage as one of so many processes holds it; what is on disk stays as it is.

    A layer's gradient that is on its way to main memory is not counted, as temporary buffers are
    not.
    """
    if train.splits(processes):
        total = split_total(total, shapes, processes, "weights" in train.offload)
    if "optimiser" in train.offload:
        total = _without_optimiser(total)
    return _without_method(total) if "method" in train.offload else total


def _without_optimiser(total: Total) -> Total:
    """Gradients, masters and moments in main memory, where no weight is its own master."""
    base, part = total.base, total.base.gradients
    main = replace(total.main, gradients=part, masters=3 * part)
    return replace(total, base=replace(base, gradients=0, optimiser=base.indices), main=main)


def _without_method(total: Total) -> Total:
    """What methods can keep in main memory, in training and in passes."""
    memory = total.added.memory
    moved = memory.movable + memory.movable_each * total.earlier
    left = replace(
        memory,
        held=memory.held - memory.movable,
        held_each=memory.held_each - memory.movable_each,
        movable=0,
        movable_each=0,
    )
    passes = tuple(
        replace(one, held=one.held - one.movable, movable=0) for one in total.added.work.passes
    )
    added = replace(total.added, memory=left, work=replace(total.added.work, passes=passes))
    return replace(total, added=added, main=replace(total.main, method=moved))
