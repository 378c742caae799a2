"""Attention of decoding steps on a CPU, compiled from C where a compiler is there.

torch's own kernel is made for many queries: for the few of a decoding step it rearranges all keys
and values, which takes three to five times as long as reading them (docs/performance.md). The
compiler runs for about a second, once in a process for a shape of heads. Where anything is missing
(a compiler, Linux, torch's OpenMP, a dtype that it knows), torch's kernel is used.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cl_bench.training.cpu.compiled import compiled

SOURCE = Path(__file__).with_suffix(".c")
LANES = 8
"""Of which a head has whole multiples (cpu_decode_kernel.c)."""
WIDEST = 1024
"""Numbers of a group's queries: more would not stay in the first cache."""

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""attend(q [N, H, D], keys and values [S, G, C, D], slots [N], ends [N], scale) -> [N, H, D].

Query n looks at the first ends[n] columns of slot slots[n] (both int64)."""


def kernel_for(query: Tensor, key: Tensor) -> Kernel | None:
    """A kernel for queries [..., H, any, D] and keys [S, G, C, D]; None where there is none."""
    heads, groups, size = query.shape[-3], key.shape[1], key.shape[3]
    if key.device.type != "cpu" or query.dtype != key.dtype or heads % groups:
        return None
    if query.dtype not in (torch.float32, torch.bfloat16) or query.shape[-1] != size:
        return None
    if heads // groups * size > WIDEST or size % LANES:
        return None
    return _kernel(size, heads // groups, query.dtype)


@functools.cache
def _kernel(size: int, heads: int, dtype: torch.dtype) -> Kernel | None:
    """A kernel for `heads` query heads of `size` numbers to a key head, if it is right."""
    names = [f"-DD={size}", f"-DR={heads}", *(["-DHALF"] if dtype == torch.bfloat16 else [])]
    library = compiled(SOURCE, names)
    if library is None:
        return None
    try:
        kernel = functools.partial(_call, _typed(library.attend))
    except AttributeError:
        return None
    return kernel if _is_right(kernel, size, heads, dtype) else None


def _typed(attend: ctypes._NamedFuncPointer) -> ctypes._NamedFuncPointer:
    pointers, numbers = [ctypes.c_void_p] * 5, [ctypes.c_int64] * 3
    attend.argtypes = [*pointers, *numbers, ctypes.c_float, ctypes.c_int, ctypes.c_void_p]
    attend.restype = ctypes.c_int
    return attend


def _call(
    attend: ctypes._NamedFuncPointer,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    ends: Tensor,
    scale: float,
) -> Tensor:
    # The kernel knows of no strides.
    query, keys, values = query.contiguous(), keys.contiguous(), values.contiguous()
    out = torch.empty_like(query)
    failed = attend(
        query.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        slots.data_ptr(),
        ends.data_ptr(),
        len(query),
        keys.shape[1],
        keys.shape[2],
        scale,
        torch.get_num_threads(),
        out.data_ptr(),
    )
    if failed:
        raise MemoryError("attention of a decoding step")
    return out


def _is_right(kernel: Kernel, size: int, heads: int, dtype: torch.dtype) -> bool:
    """Whether a kernel finds what torch does for a few numbers."""
    groups, columns = 2, 19
    numbers = torch.linspace(0, 40, 2 * groups * columns * size).view(2, groups, columns, size)
    keys, values = numbers.sin().to(dtype), numbers.cos().to(dtype)
    query = torch.linspace(1, -2, 2 * groups * heads * size).view(2, -1, size).to(dtype)
    slots, ends = torch.tensor([1, 0]), torch.tensor([columns, 5])
    with torch.no_grad():
        found = kernel(query, keys, values, slots, ends, 0.3)
        for n, (slot, end) in enumerate(zip(slots, ends, strict=True)):
            own = query[n].view(groups, heads, size)
            part = keys[slot, :, :end], values[slot, :, :end]
            expected = scaled_dot_product_attention(own, *part, scale=0.3)
            apart = found[n].view_as(expected).float() - expected.float()
            if not apart.abs().max() <= (1e-5 if dtype == torch.float32 else 2e-2):
                return False
    return True
