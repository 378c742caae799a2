"""AdamW over flat buffers, bit-identical to `torch.optim.AdamW` entry by entry.

Loshchilov and Hutter 2019 as `torch.optim.AdamW(foreach=False, fused=False)` computes it: the same
operations in the same order, so a compact parameter moves exactly as its entries in a dense one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    def step(self, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        """One AdamW update of `masters` and the moments from `grads`, which stay as they are."""
        self.steps += 1
        beta1, beta2 = betas
        size = lr / (1 - beta1**self.steps)
        correction = (1 - beta2**self.steps) ** 0.5
        buffers = (self.masters, self.grads, self.exp_avg, self.exp_avg_sq)
        total = self.masters.numel()
        block = min(total, _BLOCK if self.masters.device.type == "cpu" else _DEVICE_BLOCK)
        scratch = self.masters.new_empty(block)
        for start in range(0, total, max(1, block)):
            master, grad, mean, square = (b[start : start + block] for b in buffers)
            if weight_decay != 0:
                master.mul_(1 - lr * weight_decay)
            mean.lerp_(grad, 1 - beta1)
            square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            denominator = torch.sqrt(square, out=scratch[: len(square)]).div_(correction).add_(eps)
            master.addcdiv_(mean, denominator, value=-size)
