"""In the manner of GrADS (Liu et al. 2025): train on the examples with the largest gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from cl_bench.methods.base import Batch, Method, Options, Phase, Stage
from cl_bench.training.loss import answer_loss


class GrADSOptions(Options):
    share: float = 0.5


class GrADS(Method[GrADSOptions]):
    """A preliminary epoch, the gradient of embeddings and head for each example, then the best.

    Official code and density rule are not published; this takes the largest norms.
    """

    name = "grads"

    def phases(self, stage: Stage) -> Iterator[Phase]:
        start = stage.snapshot()
        yield Phase(stage.mixture, 1)
        sizes = torch.zeros(len(stage.mixture), dtype=torch.float64, device=stage.device)
        place = {stage.number(example): i for i, example in enumerate(stage.mixture)}
        for batch in stage.batches(stage.mixture):
            for row, number in enumerate(batch["example"].tolist()):
                one = {key: value[row : row + 1] for key, value in batch.items()}
                sizes[place[number]] = self._size(stage, one)
        stage.all_reduce(sizes)
        count = max(1, round(self.options.share * len(sizes)))
        chosen = sorted(sizes.topk(count).indices.tolist())
        stage.notes["chosen"] = chosen
        yield Phase([stage.mixture[i] for i in chosen], stage.epochs, start=start)

    def _size(self, stage: Stage, one: Batch) -> float:
        model = stage.model
        watched = {id(w): w for w in (_weight(model, "input"), _weight(model, "output"))}
        loss, _ = answer_loss(model, one, 1.0)
        found = torch.autograd.grad(loss, list(watched.values()))
        return float(sum(gradient.double().square().sum() for gradient in found)) ** 0.5


def _weight(model: torch.nn.Module, side: str) -> torch.Tensor:
    weight: torch.Tensor = getattr(model, f"get_{side}_embeddings")().weight
    return weight
