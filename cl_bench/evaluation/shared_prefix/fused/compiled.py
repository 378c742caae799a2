"""The kernels of fused layers, compiled for a model's heads where a C compiler is there."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cl_bench.training.cpu.compiled import compiled

SOURCE = Path(__file__).with_name("kernels.c")
LANES = 16
"""Queries side by side in a vector, of which a head's size is a multiple (attention.h)."""
QUERIES = 4 * LANES
"""Queries of a job at most: its tokens times the query heads of a key head."""
LARGEST_HEAD = 256


@dataclass(frozen=True)
class Heads:
    """A model's attention: `shared` query heads of `size` numbers to each of `groups` key heads."""

    size: int
    shared: int
    groups: int

    @property
    def tokens(self) -> int:
        """Tokens that a job may have."""
        return QUERIES // self.shared


@dataclass(frozen=True)
class Jobs:
    """What a pass's tokens look at, as int64 tensors (attention.h)."""

    jobs: Tensor
    """[n, 6]: where its tokens begin, how many, where its ranges begin, how many, its first lane
    among the parts (-1: its result is whole), and whether its tokens are the last of its keys."""
    tokens: Tensor
    ranges: Tensor
    """[any, 2]: offset in a head's keys, and length in tokens."""
    wholes: Tensor
    """[m, 3]: a token whose keys were read in parts, where these begin, how many."""
    parts: Tensor
    lanes: int
    """Of all parts."""


class Kernels:
    """Functions of the compiled library for contiguous tensors of one dtype on a CPU."""

    def __init__(self, library: ctypes.CDLL, heads: Heads) -> None:
        self.heads, self._library = heads, library
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        library.attend.argtypes = [
            *([pointer] * 4),
            number,
            *([pointer] * 3),
            number,
            pointer,
            *([number] * 4),
            ctypes.c_float,
            ctypes.c_int,
            pointer,
        ]
        rows = [number, number, ctypes.c_int]
        library.normalise.argtypes = [*([pointer] * 3), ctypes.c_float, *rows, pointer]
        library.add.argtypes = [pointer, pointer, *rows]
        library.gated.argtypes = [pointer, *rows, pointer]
        library.largest.argtypes = [pointer, *rows, pointer]
        library.place.argtypes = [*([pointer] * 4), *([number] * 3), ctypes.c_int, *([pointer] * 3)]
        for name in ("normalise", "add", "gated", "largest", "place"):
            getattr(library, name).restype = None

    def normalised(self, x: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """RMSNorm of rows [N, C]; with `added`, x becomes x + added before."""
        out = torch.empty_like(x)
        self._library.normalise(
            x.data_ptr(),
            None if added is None else added.data_ptr(),
            weight.data_ptr(),
            epsilon,
            *x.shape,
            torch.get_num_threads(),
            out.data_ptr(),
        )
        return out

    def add(self, x: Tensor, added: Tensor) -> None:
        """x += added, rows [N, C]."""
        self._library.add(x.data_ptr(), added.data_ptr(), *x.shape, torch.get_num_threads())

    def gated(self, both: Tensor) -> Tensor:
        """silu(gate) * up of rows [N, 2 M] -> [N, M]."""
        n, m = len(both), both.shape[1] // 2
        out = both.new_empty(n, m)
        self._library.gated(both.data_ptr(), n, m, torch.get_num_threads(), out.data_ptr())
        return out

    def largest(self, rows: Tensor) -> Tensor:
        """int64 [N]: the first largest number of rows [N, C], the first NaN where there is one."""
        out = torch.empty(len(rows), dtype=torch.long)
        self._library.largest(rows.data_ptr(), *rows.shape, torch.get_num_threads(), out.data_ptr())
        return out

    def placed(
        self, rows: Tensor, turns: tuple[Tensor, Tensor], offsets: Tensor, store: Tensor
    ) -> Tensor:
        """Rotated queries [N, H D] of rows [N, (H + 2 G) D]; keys and values go into the store.

        `turns`: cosines and sines [N, D]; `store` [2, G, tokens, D].
        """
        n, heads = len(rows), self.heads
        q = rows.new_empty(n, heads.groups * heads.shared * heads.size)
        self._library.place(
            rows.data_ptr(),
            turns[0].data_ptr(),
            turns[1].data_ptr(),
            offsets.data_ptr(),
            n,
            heads.groups,
            store.stride(1),
            torch.get_num_threads(),
            q.data_ptr(),
            store[0].data_ptr(),
            store[1].data_ptr(),
        )
        return q

    def attended(self, q: Tensor, store: Tensor, jobs: Jobs, scale: float) -> Tensor:
        """Attention [N, H D] of queries [N, H D] over the store [2, G, tokens, D]."""
        out = torch.empty_like(q)
        failed = self._library.attend(
            q.data_ptr(),
            store[0].data_ptr(),
            store[1].data_ptr(),
            jobs.jobs.data_ptr(),
            len(jobs.jobs),
            jobs.tokens.data_ptr(),
            jobs.ranges.data_ptr(),
            jobs.wholes.data_ptr(),
            len(jobs.wholes),
            jobs.parts.data_ptr(),
            jobs.lanes,
            self.heads.groups,
            store.stride(1),
            store.stride(2),
            scale,
            torch.get_num_threads(),
            out.data_ptr(),
        )
        if failed:
            raise MemoryError("attention of a decoding step")
        return out


@functools.cache
def kernels_for(heads: Heads, dtype: torch.dtype) -> Kernels | None:
    """Kernels for a CPU; None where no compiler is there, or no kernel for these heads."""
    if dtype not in (torch.float32, torch.bfloat16) or heads.shared > QUERIES:
        return None
    if heads.size % LANES or heads.size > LARGEST_HEAD:
        return None
    names = [f"-DD={heads.size}", f"-DR={heads.shared}"]
    library = compiled(SOURCE, [*names, *_half(dtype)])
    if library is None or not library.allowed():  # the system may refuse matrix units
        return None
    return Kernels(library, heads)


def _half(dtype: torch.dtype) -> Sequence[str]:
    return ["-DHALF"] if dtype == torch.bfloat16 else []
