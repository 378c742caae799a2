"""TIES (Yadav et al. 2023) over all stages so far: scored, and not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cl_bench.methods.base import Method, Options, Stage


class TIESOptions(Options):
    density: float = 0.5
    scale: float = 1.0


class TIES(Method[TIESOptions]):
    """base + scale * the mean of what each stage changed most, where the signs agree."""

    name = "ties"
    keeps = "weights"

    @contextmanager
    def scored(self, stage: Stage) -> Iterator[Any]:
        own = stage.snapshot()
        base, before = stage.weights(0), [stage.weights(k) for k in range(1, stage.index)]
        merged = {
            name: base[name] + self._change(base[name], [w[name] for w in (*before, own)])
            for name, _ in stage.model.named_parameters()
        }
        stage.load(merged)
        try:
            yield stage.model
        finally:
            stage.load(own)

    def _change(self, base: Tensor, ends: list[Tensor]) -> Tensor:
        changes = torch.stack([self._largest(end - base) for end in ends])
        sign = changes.sum(0).sign()
        agree = (changes.sign() == sign) & (changes != 0)
        mean = (changes * agree).sum(0) / agree.sum(0).clamp(min=1)
        return self.options.scale * mean

    def _largest(self, change: Tensor) -> Tensor:
        keep = max(1, round(self.options.density * change.numel()))
        least = change.abs().flatten().topk(keep).values[-1]
        return torch.where(change.abs() >= least, change, torch.zeros_like(change))
