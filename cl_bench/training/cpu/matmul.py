"""Matrix products of half-precision tensors on CPUs that have no half-precision units.

On x86 without AVX512-BF16 or AMX a bf16 product runs in a reference kernel, 10 to 100 times slower
than the float32 product of the same shape (docs/performance.md has the measured rates). There the
operands are widened to float32 for the product alone and the result is rounded back: the rounding
is that of a native bf16 product with float32 accumulation, what is stored stays in half precision.
"""

from __future__ import annotations

import functools
import platform

import torch
from torch import Tensor

# Entries of a weight that are widened at a time: 32 MB of float32.
_BLOCK = 8 * 2**20


@functools.cache
def _cpu_widens() -> bool:
    """Whether this CPU has no bf16 units. Other architectures than x86 keep torch's kernels."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return not any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def widens(tensor: Tensor) -> bool:
    """Whether products of `tensor` are computed in float32 because the machine lacks its dtype."""
    half = tensor.dtype in (torch.bfloat16, torch.float16)
    return half and tensor.device.type == "cpu" and _cpu_widens()


def widen(tensor: Tensor) -> Tensor:
    """`tensor` in the dtype that products are computed in: float32 where `widens`, else as is."""
    return tensor.float() if widens(tensor) else tensor


def _blocks(weight: Tensor) -> range:
    return range(0, weight.shape[0], max(1, _BLOCK // weight.shape[1]))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x W' + b`, x [..., Din], weight [Dout, Din], bias [Dout] or None; in x's dtype."""
    if not widens(weight):
        return torch.nn.functional.linear(x, weight, bias)
    wide_x, wide_bias = x.float(), None if bias is None else bias.float()
    blocks = _blocks(weight)
    if len(blocks) == 1:
        return torch.nn.functional.linear(wide_x, weight.float(), wide_bias).to(x.dtype)
    out = x.new_empty((*x.shape[:-1], weight.shape[0]))
    for start in blocks:
        rows = slice(start, start + blocks.step)
        part_bias = None if wide_bias is None else wide_bias[rows]
        out[..., rows] = torch.nn.functional.linear(wide_x, weight[rows].float(), part_bias)
    return out


def input_gradient(g: Tensor, weight: Tensor) -> Tensor:
    """`G W`: g [T, Dout] (widened already where `widens`), weight [Dout, Din] -> [T, Din]."""
    if not widens(weight):
        return g @ weight
    blocks = _blocks(weight)
    if len(blocks) == 1:
        return g @ weight.float()
    out = g.new_zeros((g.shape[0], weight.shape[1]))
    for start in blocks:
        rows = slice(start, start + blocks.step)
        out.addmm_(g[:, rows], weight[rows].float())
    return out
