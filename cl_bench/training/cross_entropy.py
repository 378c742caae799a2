"""Summed cross-entropy in float32 that never holds a float32 copy of all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

# Entries of the logits that are widened at a time: 16 MB of float32.
_BLOCK = 4 * 2**20


class _SummedCrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=dtype, device=logits.device)
        sums = torch.empty(len(labels), dtype=dtype, device=logits.device)
        for rows in _blocks(logits):
            wide = logits[rows].to(dtype)
            sums[rows] = wide.logsumexp(1)
            total += (sums[rows] - wide.gather(1, labels[rows].unsqueeze(1)).squeeze(1)).sum()
        ctx.save_for_backward(logits, labels, sums)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, labels, sums = ctx.saved_tensors
        out = torch.empty_like(logits)
        for rows in _blocks(logits):
            part = (logits[rows].to(sums.dtype) - sums[rows].unsqueeze(1)).exp_()
            hit = labels[rows].unsqueeze(1)
            part.scatter_add_(1, hit, part.new_full(hit.shape, -1.0))
            out[rows] = part.mul_(grad)
        return out, None


def _blocks(logits: Tensor) -> list[slice]:
    size = max(1, _BLOCK // max(1, logits.shape[1]))
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """`sum_i -log softmax(logits_i)[label_i]`: logits [N, V] of any dtype, labels int64 [N].

    A scalar in float32 (float64 for float64 logits); the gradient is in the logits' dtype.
    """
    return _SummedCrossEntropy.apply(logits, labels)  # type: ignore[no-any-return,no-untyped-call]
