"""GrADS: data selected by gradients (Liu et al. 2025, arXiv 2511.08620)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cl_bench.methods.base import Batch, Method, Options, Phase, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes


class GrADSOptions(Options):
    """Options of GrADS."""

    share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of the examples that is trained on (the paper: 0.05 and 0.5)"
    )
    choose: Literal["largest", "densest"] = Field(
        "largest",
        description="largest: the largest gradients; densest: those whose size is the most usual",
    )
    layers: Literal["both", "embeddings", "head"] = Field(
        "both", description="whose gradients are measured"
    )


class GrADS(Method[GrADSOptions]):
    """Train on the `share` of the examples that their gradients single out.

    One preliminary epoch on everything; then, for each example, the size of the gradient of its
    answer's negative log-likelihood in token embeddings and head (`|(g_E, g_H)|`); then the stage
    is trained from where it began, on the chosen examples alone. The paper says that magnitude and
    distribution of the gradients decide, by a density, and that the subset's size adapts; it gives
    no formula, and its code is announced but not published. So two rules are here, both with a
    fixed share: `largest` takes the largest sizes, `densest` the sizes with the highest Gaussian
    kernel density of their logarithms (Scott's width), which leaves out what is unusual on either
    side. Sizes are of summed log-likelihoods: long answers have larger ones. Tied layers are one.
    """

    name = "grads"
    family = "selection"
    source = "in the manner of Liu 2025, arXiv 2511.08620"

    def adds(self, shapes: Shapes) -> Cost:
        """An epoch and a gradient of each example before training, which sees fewer examples."""
        from cl_bench.costs.added import Cost, Pass, Work

        if self.options.share == 1:
            return Cost()
        return Cost(work=Work(passes=(Pass(6 * shapes.products), Pass(4 * shapes.products))))

    def phases(self, stage: Stage) -> Iterator[Phase]:
        """The preliminary epoch, then the chosen examples from the stage's start."""
        if self.options.share == 1:
            yield from super().phases(stage)
            return
        start = stage.snapshot()
        yield Phase(stage.mixture, 1)
        chosen = self._chosen(self._sizes(stage))
        stage.notes |= {"chosen": len(chosen), "of": len(stage.mixture)}
        yield Phase([stage.mixture[i] for i in chosen], stage.epochs, start=start)

    def _sizes(self, stage: Stage) -> Tensor:
        """Of each example of the mixture [n], float64, on the CPU."""
        import torch

        sizes = torch.zeros(len(stage.mixture), dtype=torch.float64, device=stage.device)
        places: dict[int, list[int]] = {}
        for i, example in enumerate(stage.mixture):
            places.setdefault(stage.number(example), []).append(i)
        one_each = [stage.mixture[own[0]] for own in places.values()]
        for batch in stage.remaining({"sizes": sizes}, stage.batches(one_each)):
            for row, number in enumerate(batch["example"].tolist()):
                one = {key: value[row : row + 1] for key, value in batch.items()}
                sizes[places[number]] = self._size(stage.model, one)
        stage.all_reduce(sizes)
        return sizes.cpu()

    def _size(self, model: Any, one: Batch) -> float:
        import torch

        from cl_bench.training.loss import answer_loss

        ends = {"embeddings": model.get_input_embeddings(), "head": model.get_output_embeddings()}
        if self.options.layers != "both":
            ends = {self.options.layers: ends[self.options.layers]}
        watched = {id(layer.weight): layer.weight for layer in ends.values()}
        flags = [(p, p.requires_grad) for p in model.parameters()]
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(id(parameter) in watched)
            loss, _ = answer_loss(model, one, 1.0)
            found = torch.autograd.grad(loss, list(watched.values()))
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
        squares = [float(gradient.double().square().sum()) for gradient in found]
        return math.sqrt(sum(squares))

    def _chosen(self, sizes: Tensor) -> list[int]:
        """Places in the mixture, in its order; of equals the first."""
        import torch

        count = max(1, round(self.options.share * len(sizes)))
        scores = sizes
        if self.options.choose == "densest":
            scores = _density(torch.log(sizes.clamp(min=1e-30)))
        return sorted(scores.argsort(descending=True, stable=True)[:count].tolist())


def _density(values: Tensor) -> Tensor:
    """Gaussian kernel density at each of the values [n], of Scott's width; not normalised."""
    import torch

    width = float(values.std()) * len(values) ** -0.2 if len(values) > 1 else 0.0
    if width == 0:
        return torch.ones_like(values)
    density = [torch.exp(-((values - one) / width).square() / 2).sum() for one in values]
    return torch.stack(density)
