"""Kullback-Leibler divergence between two models' next-token distributions, in float32 blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

# Entries of the logits that are widened at a time: 16 MB of float32, and a few such buffers.
_BLOCK = 4 * 2**20


class _SummedKL(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, teacher: Tensor, hot: float, reverse: bool) -> Tensor:
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=wide, device=logits.device)
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        size = max(1, _BLOCK // max(1, logits.shape[1]))
        for start in range(0, len(logits), size):
            rows = slice(start, start + size)
            own, old = ((z[rows].to(wide) / hot).log_softmax(1) for z in (logits, teacher))
            q, p = own.exp(), old.exp()
            first, second, weight = (own, old, q) if reverse else (old, own, p)
            # Tokens that both models exclude (-inf) have no probability and no part in the sum.
            ratio = torch.where(weight > 0, first - second, 0.0)
            each = (weight * ratio).sum(1, keepdim=True)
            total += each.sum()
            if gradient is not None:
                gradient[rows] = (q * (ratio - each) if reverse else q - p) / hot
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad.to(gradient.dtype), None, None, None


def summed_kl(
    logits: Tensor, teacher: Tensor, temperature: float = 1.0, reverse: bool = False
) -> Tensor:
    """`sum_i KL(softmax(teacher_i / T) || softmax(logits_i / T))`: logits and teacher [N, V].

    `reverse`: KL(model || teacher). A scalar in float32 (float64 for float64 logits), with a
    gradient for `logits` alone, in their dtype.
    """
    return _SummedKL.apply(logits, teacher, temperature, reverse)  # type: ignore[no-any-return,no-untyped-call]
