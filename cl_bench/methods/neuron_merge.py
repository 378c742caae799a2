"""Keep what a stage changed in the neurons that it changed most, weaken it in the others.

Inspired by Neuron-Fusion (Yu and Ananiadou 2025), whose abstract says as much; its formula is not
published, so this is not a reproduction of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cl_bench.methods.base import Stage
from cl_bench.methods.merging import Merging, Rule, change, largest, lerp
from cl_bench.methods.two_models import TwoModelOptions
from cl_bench.models.layouts import Layout, layouts

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.models.layouts import Shape


class NeuronMergeOptions(TwoModelOptions):
    """Options of neuron_merge."""

    keep: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="share of each weight's neurons that keep their whole change"
    )
    others: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="factor for the change of the other neurons; 1 is plain training"
    )


class NeuronMerge(Merging[NeuronMergeOptions]):
    """Of each weight the `keep` rows r with the largest ||dW_r||, the rest W_r + others * dW_r.

    A neuron is an output unit, whatever the layout of the weight: a row of a Linear weight, a token
    of an embedding, each entry of a vector; every expert is a weight of its own.
    """

    name = "neuron_merge"
    family = "merges"
    source = "inspired by Yu 2025, arXiv 2505.16703"

    def adds(self, shapes: Shapes) -> Cost:
        """A bit for every neuron on disk: whether it keeps its change."""
        from cl_bench.costs.added import Cost, Disk
        from cl_bench.costs.kept_selection import choice_bytes

        def neurons(name: str, shape: Shape) -> int:
            return math.prod(shapes.layout(name).score_shape(shape, "rows"))

        return Cost(disk=Disk(selection=choice_bytes(shapes, neurons)))

    def rule(self, stage: Stage) -> Rule:
        """By the layout of each parameter."""
        import torch

        found = layouts(stage.model)
        options, other = self.options, self.options.weights(stage)

        def merge(name: str, own: Tensor) -> Tensor:
            before = other[name].to(own.device)
            kept = _most_changed(change(before, own), found[name], options.keep)
            stage.keep_choice(name, kept)
            return torch.where(kept, own, lerp(before, own, options.others).to(own.dtype))

        return merge


def _most_changed(moved: Tensor, layout: Layout, keep: float) -> Tensor:
    """A mask of the parameter's shape: `round(keep * neurons)` whole neurons of each weight."""
    import torch

    shape = tuple(moved.shape)
    sizes = layout.total(moved.square(), "rows")
    weights = sizes.flatten(layout.stack) if layout.stack else sizes.reshape(1, -1)
    count = round(keep * weights.shape[1])
    chosen = torch.stack([largest(one, count) for one in weights])
    return layout.spread(chosen, shape, "rows")
