"""What differs between two tensors, bit by bit, in the form that takes the fewest bytes.

Entries are compared and kept as integers of their size, so that -0.0 and NaN are what they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_LARGEST = 2**31
"""Entries are numbered in int32."""


@dataclass(frozen=True)
class Difference:
    """How a tensor is made from another one of its shape.

    `form`: `same`; `rows` or `columns` (of the tensor as a matrix of its last dimension), `mask`
    (a bit for each entry) or `entries` say which entries `values` replace; `whole`: all of them,
    whatever the other one is. `packed`: uint8, the places and behind them the values. `count`: of
    rows, columns or entries.
    """

    form: str
    count: int
    packed: Tensor


def words(tensor: Tensor) -> Tensor:
    """The bits of a tensor's entries as integers, one dimension."""
    return tensor.detach().cpu().contiguous().view(-1).view(_WORDS[tensor.element_size()])


def difference(new: Tensor, old: Tensor | None) -> Difference:
    """What makes `new` from `old`; they have one shape and dtype, else `old` is None."""
    own = words(new)
    if old is None:
        return Difference("whole", own.numel(), _bytes(own))
    changed = own != words(old)
    count, size = int(changed.sum()), own.element_size()
    if not count:
        return Difference("same", 0, own.new_empty(0, dtype=torch.uint8))
    matrix = changed.view(-1, _width(new.shape))
    rows, columns = matrix.any(dim=1), matrix.any(dim=0)
    places = 4 if own.numel() < _LARGEST else math.inf
    bytes_of = {
        "whole": own.numel() * size,
        "rows": int(rows.sum()) * (matrix.shape[1] * size + places),
        "columns": int(columns.sum()) * (matrix.shape[0] * size + places),
        "mask": -(-own.numel() // 8) + count * size,
        "entries": count * (size + places),
    }
    form = min(bytes_of, key=lambda each: bytes_of[each])
    grid = own.view(matrix.shape)
    if form == "whole":
        return Difference("whole", own.numel(), _bytes(own))
    if form == "rows":
        return _packed(form, _numbers(rows), grid[rows])
    if form == "columns":
        return _packed(form, _numbers(columns), grid[:, columns])
    if form == "entries":
        return _packed(form, _numbers(changed), own[changed])
    return Difference(form, count, torch.cat([_bits(changed), _bytes(own[changed])]))


def applied(found: Difference, old: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The tensor that `difference` was given. Raises ValueError where the two do not fit."""
    kind = _WORDS[dtype.itemsize]
    packed, numel = found.packed, shape.numel()
    if found.form == "whole":
        return packed.clone().view(kind).view(dtype).view(shape)
    if old is None:
        raise ValueError(f"nothing to apply {found.form} to")
    own = words(old).clone()
    grid = own.view(-1, _width(shape))
    if found.form == "same":
        pass
    elif found.form == "mask":
        end = -(-numel // 8)
        flags = np.unpackbits(packed[:end].numpy(), count=numel, bitorder="little")
        own[torch.from_numpy(flags).bool()] = packed[end:].clone().view(kind)
    else:
        numbers = packed[: 4 * found.count].clone().view(torch.int32).long()
        values = packed[4 * found.count :].clone().view(kind)
        if found.form == "rows":
            grid[numbers] = values.view(found.count, -1)
        elif found.form == "columns":
            grid[:, numbers] = values.view(-1, found.count)
        elif found.form == "entries":
            own[numbers] = values
        else:
            raise ValueError(f"unknown form '{found.form}'")
    return own.view(dtype).view(shape)


def _width(shape: torch.Size) -> int:
    return shape[-1] if len(shape) > 1 and shape[-1] else 1


def _numbers(chosen: Tensor) -> Tensor:
    return chosen.nonzero().view(-1).int()


def _packed(form: str, numbers: Tensor, values: Tensor) -> Difference:
    return Difference(form, len(numbers), torch.cat([_bytes(numbers), _bytes(values)]))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _bits(flags: Tensor) -> Tensor:
    """Eight flags to a byte, the first in its lowest bit."""
    return torch.from_numpy(np.packbits(flags.numpy(), bitorder="little"))
