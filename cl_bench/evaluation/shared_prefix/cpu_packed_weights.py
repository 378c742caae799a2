"""Linear layers as CPUs decode best: their weights packed for oneDNN while a model generates.

torch's product of an activation and a weight rearranges the weight at every call, which is most of
a decoding step, with its few rows to spread that over (docs/performance.md). torch.compile packs
weights that do not change; here the same is done while a model generates, without compiling.
Products have the same precision, but float32 sums are made in longer chains: their rounding is
about twice that of torch's own, which is why log-likelihoods are computed without.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import psutil
import torch
from torch import Tensor, nn

from cl_bench.training.patching import is_replaced, replaced

MEMORY_SHARE = 0.5
"""Part of the free memory that packed copies of the weights may take."""
LARGE_PAGE = 2 * 2**20
"""Bytes, on x86 and most ARM systems; elsewhere Linux refuses or does less."""
MADV_COLLAPSE = 25
"""Linux, asm-generic/mman-common.h."""


class PackedLinear:
    """`input W' + bias` of one or more linear layers, side by side, with their weights packed."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        # The kernel takes a bias for contiguous without asking.
        self._bias = None if bias is None else bias.detach().contiguous()
        if weight.dtype == torch.bfloat16:
            _use_large_pages(self._weight)

    @classmethod
    def joined(cls, layers: Sequence[nn.Linear]) -> PackedLinear:
        """Layers of the same input, whose outputs stand side by side."""
        return cls(*side_by_side(layers))

    def __call__(self, input: Tensor) -> Tensor:
        """The argument is named as nn.Linear names it."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self._weight, self._bias, "none", [], ""
        )
        return out


def side_by_side(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of linear layers of the same input as one; of a single layer its own."""
    if len(layers) == 1:
        return layers[0].weight.detach(), layers[0].bias
    biases: list[Tensor] = [
        each.weight.new_zeros(each.out_features) if each.bias is None else each.bias
        for each in layers
    ]
    some = any(each.bias is not None for each in layers)
    weight = torch.cat([each.weight.detach() for each in layers])
    return weight, torch.cat(biases) if some else None


def _use_large_pages(packed: Tensor) -> None:
    """Ask Linux to move a packed weight into large pages, where it can (6.1 and newer).

    A step's products in bfloat16 then take 28 instead of 45 ms; those in float32, which wait less
    for memory, gain nothing (docs/performance.md).
    """
    if not sys.platform.startswith("linux"):
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    begin = torch.ops.mkldnn.data_ptr(packed)
    end = begin + torch.ops.mkldnn._nbytes(packed)
    # Neighbours in the same pages move too. Whether it was done changes no result.
    begin, end = begin // LARGE_PAGE * LARGE_PAGE, -(-end // LARGE_PAGE) * LARGE_PAGE
    madvise(begin, end - begin, MADV_COLLAPSE)


@contextmanager
def packed_linears(model: nn.Module, but: Iterable[nn.Linear] = ()) -> Iterator[int]:
    """While open, plain linear layers of `model` on a CPU run packed; yields how many.

    Their weights must not change meanwhile and no gradient may be asked for. Nothing happens where
    oneDNN, the dtype or the memory for a copy is missing, and to those in `but`.
    """
    left = set(but)
    layers = [
        m for m in model.modules() if isinstance(m, nn.Linear) and m not in left and is_packable(m)
    ]
    if not has_room(layers):
        layers = []
    with ExitStack() as restore:
        for layer in layers:
            restore.enter_context(replaced(layer, PackedLinear.joined([layer])))
        yield len(layers)


def has_room(layers: Sequence[nn.Linear]) -> bool:
    """Whether memory suffices for packed copies of weights."""
    size = sum(layer.weight.nbytes for layer in layers)
    return size <= MEMORY_SHARE * psutil.virtual_memory().available


def is_packable(layer: nn.Linear) -> bool:
    """Whether a layer is torch's own, unpatched, with an ordinary weight of a dtype that packs."""
    if type(layer) is not nn.Linear or is_replaced(layer):
        return False
    weight = layer.weight
    ordinary = type(weight) is nn.Parameter and weight.layout == torch.strided
    return ordinary and weight.device.type == "cpu" and _packs(weight.dtype)


@functools.cache
def _packs(dtype: torch.dtype) -> bool:
    """Whether a product of this dtype runs packed and is right.

    The operations are those that torch.compile emits, not a public interface: they are tried.
    """
    if dtype not in (torch.float32, torch.bfloat16) or not torch._C._has_mkldnn:
        return False
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        weight = torch.linspace(-1, 1, 24 * 40, dtype=dtype).view(24, 40)
        rows = torch.linspace(1, -2, 3 * 40, dtype=dtype).view(3, 40)
        with torch.no_grad():
            found = PackedLinear(weight, weight[:, 0])(rows)
            expected = nn.functional.linear(rows, weight, weight[:, 0])
        return torch.allclose(found.float(), expected.float(), rtol=2e-2, atol=1e-2)
    except (AttributeError, RuntimeError):
        return False
