"""Which of a slot's selected entries each process holds: those in its rows of the parameter.

Compact tensors are split where the parameter is: of `Full`, `Rows`, `Elements` and `Columns` of a
matrix along their first dimension, of `Columns` of a stack along the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from cl_bench.training.selected import Slot
from cl_bench.training.sharding import group_of, rows_of


@dataclass(frozen=True, eq=False)
class Held:
    """This process's part of a slot.

    `slot`: the same of the rows that are here; its parameter is the local tensor, its index counts
    from their beginning. `rows`: those rows. `spans`: for each process, which entries of the whole
    compact tensor it holds, along `dim`.
    """

    whole: Slot
    slot: Slot
    rows: tuple[int, int]
    dim: int
    spans: tuple[tuple[int, int], ...]
    rank: int

    def compact(self, dense: Tensor) -> Tensor:
        """The selected entries here of a tensor of the parameter's shape, whole or split."""
        if isinstance(dense, DTensor):
            dense = dense.to_local()
        elif dense.shape == self.whole.parameter.shape:
            dense = dense[slice(*self.rows)]
        return self.slot.gather(dense)

    def add_sum(self, compact: Tensor, to: Tensor) -> None:
        """`to` += what is here of the sum over processes of a whole compact tensor of each."""
        parts = [compact.narrow(self.dim, a, b - a).contiguous() for a, b in self.spans]
        out = torch.empty_like(parts[self.rank])
        dist.reduce_scatter(out, parts, group=group_of(self.whole.parameter))
        to.add_(out.to(to.device))


def held_of(slot: Slot) -> Held:
    """The part that is here of a slot whose parameter is split over processes."""
    parameter = slot.parameter
    assert isinstance(parameter, DTensor)
    mesh, shape = parameter.device_mesh, tuple(parameter.shape)
    world, rank = mesh.size(), mesh.get_local_rank()
    rows = [rows_of(shape[0], other, world) for other in range(world)]
    per_row = _per_row(slot, shape)
    dim, spans = 0, tuple(rows)
    if slot.index is not None and per_row:
        dim = 1 if slot.part == "columns" else 0
        bounds = torch.tensor(rows, device=slot.index.device, dtype=slot.index.dtype) * per_row
        spans = tuple(map(tuple, torch.searchsorted(slot.index, bounds).tolist()))
    start, stop = spans[rank]
    index = slot.index
    if index is not None and per_row:
        index = index[start:stop] - rows[rank][0] * per_row
    own = list(slot.shape)
    own[dim] = stop - start
    local = Slot(slot.name, parameter.to_local(), slot.part, index, tuple(own))
    return Held(slot, local, rows[rank], dim, spans, rank)


def _per_row(slot: Slot, shape: tuple[int, ...]) -> int:
    """How far indices count in a row of the first dimension; 0 where they do not depend on it."""
    if slot.part == "elements":
        return math.prod(shape[1:])
    if slot.part == "rows":
        return math.prod(shape[1:-1])
    return math.prod(shape[1:-2]) * shape[-1] if slot.part == "columns" and len(shape) > 2 else 0
