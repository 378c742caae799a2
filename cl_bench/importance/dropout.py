"""How far two passes with dropout are apart: a proxy for what a model knows in general."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_bench.importance.units import Batch, Factors
from cl_bench.training.loss import answer_logits


def dropout_distance(
    model: Any, batch: Batch, factors: Factors, share: float, seed: Callable[[int, int], int]
) -> Tensor:
    """Sum over answer tokens of KL(first pass || second), both with dropout `share` in the blocks.

    `seed(example, pass)`: what is dropped of an example depends on it alone, not on the batch.
    """
    passes = []
    for number in (1, 2):
        generators = [
            torch.Generator().manual_seed(seed(example, number))
            for example in batch["example"].tolist()
        ]
        factors.noise = _dropping(batch["attention_mask"] > 0, generators, share)
        logits = answer_logits(model, batch).logits
        wide = torch.promote_types(logits.dtype, torch.float32)
        passes.append(logits.to(wide).log_softmax(1))
    factors.noise = None
    first, second = passes
    return (first.exp() * (first - second)).sum()


def _dropping(
    real: Tensor, generators: list[torch.Generator], share: float
) -> Callable[[Tensor], Tensor]:
    """Drops entries of [B, T, D] where tokens are `real` [B, T], each example with its draws."""
    lengths = real.sum(1).tolist()

    def drop(output: Tensor) -> Tensor:
        draws = [
            torch.rand(length, output.shape[-1], generator=generator)
            for length, generator in zip(lengths, generators, strict=True)
        ]
        keep = torch.zeros(output.shape, dtype=output.dtype, device=output.device)
        keep[real] = (torch.cat(draws) >= share).to(keep) / (1 - share)
        return output * keep

    return drop
