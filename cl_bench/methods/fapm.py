"""FAPM (Huang et al. 2025): keep of a stage's change what is large and meets large weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cl_bench.methods.base import Stage
from cl_bench.methods.merging import Merging, Rule, change, largest, working
from cl_bench.methods.two_models import TwoModelOptions

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes


class FAPMOptions(TwoModelOptions):
    """Options of FAPM."""

    density: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="share of each tensor's entries whose change is kept"
    )


class FAPM(Merging[FAPMOptions]):
    """S = |dW| - mean(|W|) |dW| / |W|; the entries with the largest S keep their change.

    W are the weights before, dW what training changed; `int(density * n)` entries of every tensor
    are kept, embeddings, norms and head included, as in the official code. Not repeated: it has the
    score 0/0 for entries whose W and dW are 0 and sorts that first, which wastes places (here an
    entry whose W is 0 comes last), and it subtracts in bfloat16. In a tensor of zeros alone, where
    the formula says nothing, S is |dW|.
    """

    name = "fapm"
    family = "merges"
    source = "Huang 2025, arXiv 2509.08255"

    def adds(self, shapes: Shapes) -> Cost:
        """A bit for every entry on disk: whether it keeps its change."""
        from cl_bench.costs.added import Cost, Disk
        from cl_bench.costs.kept_selection import choice_bytes

        return Cost(disk=Disk(selection=choice_bytes(shapes, lambda _, shape: math.prod(shape))))

    def rule(self, stage: Stage) -> Rule:
        """Kept entries are the trained ones, the others those of the other model, to the bit."""
        import torch

        other, density = self.options.weights(stage), self.options.density

        def merge(name: str, own: Tensor) -> Tensor:
            before = other[name].to(own.device)
            kept = largest(forgetting_aware(before, own), int(density * own.numel()))
            stage.keep_choice(name, kept)
            return torch.where(kept, own, before)

        return merge


def forgetting_aware(before: Tensor, after: Tensor) -> Tensor:
    """S of every entry; -inf where the weight before was 0 or not finite."""
    size, moved = working(before, after).abs(), change(before, after).abs()
    usable = size.isfinite() & (size > 0)
    if not usable.any():
        return moved
    score = moved * (1 - size[size.isfinite()].mean() / size)
    return score.masked_fill_(~usable, float("-inf"))
