"""Where the selected entries of a parameter live: gather from dense, write back, compact shape.

Every trained parameter has one slot. Compact shapes, for a parameter [.., A, B] (a matrix, or a
stack of them): `Full` the parameter's, `Rows` [n, B], `Columns` [A, n], `Elements` [k] in row-major
order.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cl_bench.errors import UserError
from cl_bench.training.update_plan import (
    Columns,
    Elements,
    Frozen,
    Full,
    Rows,
    Selection,
    UpdatePlan,
)


@dataclass(frozen=True, eq=False)
class Slot:
    """The selected entries of one parameter.

    `part` is full, rows, columns or elements. `index`: rows and columns int64 [n]; elements the
    flat positions [k], int32 where the parameter has fewer than 2**31 entries (half the bytes). It
    is on the device that computes; masters, and the parameter, may be in main memory.
    """

    name: str
    parameter: Tensor
    part: str
    index: Tensor | None
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the master: float64 for a float64 parameter, else float32."""
        return torch.float64 if self.parameter.dtype == torch.float64 else torch.float32

    def gather(self, dense: Tensor) -> Tensor:
        """The selected entries of `dense` (parameter's shape, any dtype) in the compact shape."""
        return gather(dense, self.part, self.index)

    def compact(self, dense: Tensor) -> Tensor:
        """The same, as a part of one that is split over processes has it (`held.py`)."""
        return self.gather(dense)

    def write(self, values: Tensor) -> None:
        """Puts `values` (compact shape) into the parameter, rounded to its dtype."""
        data, index = self.parameter.data, self.index
        if index is None:
            if not same_memory(data, values):
                data.copy_(values)
            return
        index = index.to(data.device)
        values = values.to(data.dtype).to(data.device)  # rounded first: fewer bytes are sent
        if self.part == "rows":
            rows = data if data.dim() == 2 else data.view(-1, data.shape[-1])
            rows.index_copy_(0, index, values)
        elif self.part == "columns" and data.dim() == 2:
            data.index_copy_(1, index, values)
        elif self.part == "columns":
            matrices = data.view(-1, *data.shape[-2:]).transpose(0, 1)
            matrices[:, index // data.shape[-1], index % data.shape[-1]] = values
        else:
            data.view(-1).index_copy_(0, index.long(), values)


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors begin at the same place."""
    return one.device == other.device and one.data_ptr() == other.data_ptr()


def gather(dense: Tensor, part: str, index: Tensor | None) -> Tensor:
    """The entries of `dense` that `part` and `index` select, in the compact shape."""
    if index is None:
        return dense
    index = index.to(dense.device)
    if part == "elements":
        return dense.reshape(-1).index_select(0, index)
    if dense.dim() > 2:
        last = dense.shape[-1]
        if part == "rows":
            return dense.reshape(-1, last).index_select(0, index)
        matrices = dense.reshape(-1, *dense.shape[-2:]).transpose(0, 1)
        return matrices[:, index // last, index % last]
    return dense.index_select(0 if part == "rows" else 1, index)


def build_slots(
    model: nn.Module, plan: UpdatePlan, device: torch.device | None = None
) -> list[Slot]:
    """One slot per trained parameter, in `named_parameters` order; empty selections are frozen.

    `device`: that computes, where parameters are in main memory.

    Raises UserError naming every selection that does not fit its parameter.
    """
    parameters = dict(model.named_parameters())
    faults = [
        f"update plan: no parameter '{name}' (did you mean {_nearest(name, parameters)}?)"
        for name in plan.selections
        if name not in parameters
    ]
    slots = []
    for name, parameter in parameters.items():
        selection = plan.of(name)
        if isinstance(selection, Frozen):
            continue
        fault = _fault(selection, parameter)
        if fault:
            faults.append(f"update plan: {name} {list(parameter.shape)}: {fault}")
            continue
        slot = _slot(name, parameter, selection, device or parameter.device)
        if slot.numel:
            slots.append(slot)
    if faults:
        raise UserError(faults)
    return slots


def _nearest(name: str, parameters: Mapping[str, nn.Parameter]) -> str:
    """At most three names: models have thousands."""
    return " or ".join(difflib.get_close_matches(name, parameters, n=3, cutoff=0.0))


def _slot(name: str, parameter: nn.Parameter, selection: Selection, device: torch.device) -> Slot:
    if isinstance(selection, Rows | Columns):
        index = selection.index.to(device=device, dtype=torch.int64)
        if isinstance(selection, Rows):
            return Slot(name, parameter, "rows", index, (len(index), parameter.shape[-1]))
        return Slot(name, parameter, "columns", index, (parameter.shape[-2], len(index)))
    if isinstance(selection, Elements):
        small = torch.int32 if parameter.numel() < 2**31 else torch.int64
        flat = selection.mask.to(device).reshape(-1).nonzero().squeeze(1).to(small)
        return Slot(name, parameter, "elements", flat, (len(flat),))
    return Slot(name, parameter, "full", None, tuple(parameter.shape))


def _fault(selection: Selection, parameter: nn.Parameter) -> str | None:
    if not parameter.is_floating_point():
        return f"{parameter.dtype} weights cannot be trained, freeze them"
    if isinstance(selection, Full):
        return None
    if isinstance(selection, Elements):
        if selection.mask.shape != parameter.shape or selection.mask.dtype != torch.bool:
            mask = selection.mask
            return f"the mask must be bool and of that shape, not {mask.dtype} {list(mask.shape)}"
        return None
    if isinstance(selection, Frozen):
        return None
    if parameter.dim() < 2:
        return "only a matrix has rows and columns, select elements"
    index = selection.index
    side = parameter.shape[-2 if isinstance(selection, Rows) else -1]
    limit = side * math.prod(parameter.shape[:-2])
    if index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool:
        return f"the index must be a vector of integers, not {index.dtype} {list(index.shape)}"
    if len(index) and (int(index.min()) < 0 or int(index.max()) >= limit):
        return f"the index leaves 0..{limit - 1}"
    if len(index) > 1 and not bool((index[1:] > index[:-1]).all()):
        return "the index must be sorted and distinct"
    return None
