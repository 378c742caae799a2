"""AdamW over flat buffers, bit-identical to `torch.optim.AdamW` entry by entry.

Loshchilov and Hutter 2019 as `torch.optim.AdamW(foreach=False, fused=False)` computes it: the same
operations in the same order, so a compact parameter moves exactly as its entries in a dense one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cl_bench.training.cpu.adamw_kernel import Buffers, Factors, kernel_for

# Entries handled at a time. On the CPU five float32 blocks of this size stay in the caches, so each
# buffer crosses the memory bus once per step instead of once per operation; on other devices the
# block only bounds the scratch memory.
_BLOCK, _DEVICE_BLOCK = 2**17, 2**26


@dataclass
class FlatAdamW:
    """Masters, gradients and moments of one device and dtype: four vectors [N]."""

    masters: Tensor
    grads: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    steps: int = 0

    @classmethod
    def empty(cls, numel: int, dtype: torch.dtype, device: torch.device) -> FlatAdamW:
        """Zeroed buffers of `numel` entries."""
        masters, grads, mean, square = (
            torch.zeros(numel, dtype=dtype, device=device) for _ in range(4)
        )
        return cls(masters, grads, mean, square)

    @torch.no_grad()
    def step(
        self,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        zero_grads: bool = False,
    ) -> None:
        """One AdamW update of `masters` and the moments from `grads`.

        Those stay as they are, or become 0 with `zero_grads`.
        """
        self.steps += 1
        beta1, beta2 = betas
        size = lr / (1 - beta1**self.steps)
        correction = (1 - beta2**self.steps) ** 0.5
        factors = (1 - lr * weight_decay, 1 - beta1, beta2, 1 - beta2, correction, eps, -size)
        buffers = (self.masters, self.grads, self.exp_avg, self.exp_avg_sq)
        if (kernel := kernel_for(self.masters, 1 - beta1, separate_operations)) is not None:
            kernel(buffers, factors, zero_grads)
        else:
            separate_operations(buffers, factors)
            if zero_grads:
                self.grads.zero_()


def separate_operations(buffers: Buffers, factors: Factors) -> None:
    """The update as operations of torch, block by block."""
    decay, weight, keep, share, correction, eps, size = factors
    total, on_cpu = buffers[0].numel(), buffers[0].device.type == "cpu"
    block = min(total, _BLOCK if on_cpu else _DEVICE_BLOCK)
    scratch = buffers[0].new_empty(block)
    for start in range(0, total, max(1, block)):
        master, grad, mean, square = (b[start : start + block] for b in buffers)
        if decay != 1:
            master.mul_(decay)
        mean.lerp_(grad, weight)
        square.mul_(keep).addcmul_(grad, grad, value=share)
        denominator = torch.sqrt(square, out=scratch[: len(square)]).div_(correction).add_(eps)
        master.addcdiv_(mean, denominator, value=size)
