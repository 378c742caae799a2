"""DARE (Yu et al. 2024) over stages, as mergekit's `dare_linear` and `dare_ties`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cl_bench.methods.base import Stage
from cl_bench.methods.task_vectors import TaskVectorOptions, TaskVectors

if TYPE_CHECKING:
    from torch import Tensor


class DAREOptions(TaskVectorOptions):
    """Options of DARE; the paper drops up to nine entries in ten."""

    density: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="probability that an entry of a vector is kept"
    )
    rescale: Literal["l1", "density", "none"] = Field(
        "l1",
        description="what is left is scaled to the sum of absolute values that the vector had "
        "(mergekit), by 1 / density (the paper), or not at all",
    )
    consensus: bool = Field(
        False, description="merge only entries that agree in sign, as TIES (dare_ties)"
    )


class DARE(TaskVectors[DAREOptions]):
    """theta_0 + lambda * sum of vectors of which random entries are dropped, the rest rescaled.

    Entries are dropped tensor by tensor. Which ones is fixed by seed, stage and parameter: a
    stage's vector loses the same entries in every later stage that merges it.
    """

    name = "dare"
    family = "merges"
    source = "Yu 2024, arXiv 2311.03099"

    @property
    def consensus(self) -> bool:
        """As the options say."""
        return self.options.consensus

    @property
    def prunes(self) -> bool:
        """Not with a density of 1."""
        return self.options.density < 1

    def pruned(self, stage: Stage, number: int, name: str, vector: Tensor) -> Tensor:
        """Drop and rescale."""
        import torch

        from cl_bench.seeds import derive_seed

        density = self.options.density
        if density == 1:
            return vector
        generator = torch.Generator().manual_seed(derive_seed(stage.seed, "dare", number, name))
        kept = torch.rand(vector.shape, generator=generator) < density
        left = vector.masked_fill(~kept.to(vector.device), 0.0)
        if self.options.rescale == "density":
            return left / density
        sums = [float(each.abs().sum()) for each in (vector, left)]
        if self.options.rescale == "none" or min(sums) < 1e-7:
            return left
        return left * (sums[0] / sums[1])
