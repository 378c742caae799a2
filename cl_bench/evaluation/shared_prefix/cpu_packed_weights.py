"""Linear layers as CPUs decode best: their weights packed for oneDNN while a model generates.

torch's product of an activation and a weight rearranges the weight at every call, which is most of
a decoding step, with its few rows to spread that over (docs/performance.md). torch.compile packs
weights that do not change; here the same is done while a model generates, without compiling.
Products have the same precision, but float32 sums are made in longer chains: their rounding is
about twice that of torch's own, which is why log-likelihoods are computed without.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import torch
from torch import Tensor, nn

from cl_bench.training.patching import is_replaced, replaced

MEMORY_SHARE = 0.5
"""Part of the free memory that packed copies of the weights may take."""


@contextmanager
def packed_linears(model: nn.Module) -> Iterator[int]:
    """While open, plain linear layers of `model` on a CPU run packed; yields how many.

    Their weights must not change meanwhile and no gradient may be asked for. Nothing happens where
    oneDNN, the dtype or the memory for a copy is missing.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and _packable(m)]
    size = sum(layer.weight.nbytes for layer in layers)
    if size > MEMORY_SHARE * psutil.virtual_memory().available:
        layers = []
    with ExitStack() as restore:
        for layer in layers:
            forward = functools.partial(_linear, _pack(layer.weight), _bias(layer.bias))
            restore.enter_context(replaced(layer, forward))
        yield len(layers)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
    return packed


def _bias(bias: Tensor | None) -> Tensor | None:
    """The kernel takes a bias for contiguous without asking."""
    return None if bias is None else bias.detach().contiguous()


def _linear(weight: Tensor, bias: Tensor | None, input: Tensor) -> Tensor:
    """`input W' + bias`; the argument is named as nn.Linear names it."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return out


def _packable(layer: nn.Linear) -> bool:
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
            found = _linear(_pack(weight), _bias(weight[:, 0]), rows)
            expected = nn.functional.linear(rows, weight, weight[:, 0])
        return torch.allclose(found.float(), expected.float(), rtol=2e-2, atol=1e-2)
    except (AttributeError, RuntimeError):
        return False
