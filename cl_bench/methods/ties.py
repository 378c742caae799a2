"""TIES (Yadav et al. 2023) over stages, as mergekit's `ties`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cl_bench.methods.base import Stage
from cl_bench.methods.merging import largest
from cl_bench.methods.task_vectors import TaskVectorOptions, TaskVectors

if TYPE_CHECKING:
    from torch import Tensor


class TIESOptions(TaskVectorOptions):
    """Options of TIES; the paper keeps the largest fifth."""

    density: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="share of each tensor's entries that a vector keeps, the largest"
    )
    since: Literal["start", "base"] = Field(
        "base",
        description="where the vector of a stage starts: at the base model, or at the weights that "
        "the stage began with",
    )
    normalize: bool = Field(True, description="the mean of the agreeing entries, not their sum")


class TIES(TaskVectors[TIESOptions]):
    """theta_0 + lambda * mean of the entries that agree in sign, of vectors that were trimmed.

    Trim: `max(1, int(density * n))` entries of every tensor of a vector stay, the largest. Elect:
    the sign of the sum of the trimmed vectors, positive where that is 0. Merge: the mean of the
    entries that are not 0 and have that sign. The paper trims over all tensors of a vector at once
    and gives a sum of 0 the sign that most entries have; this is mergekit's definition.
    """

    name = "ties"
    family = "merges"
    source = "Yadav 2023, arXiv 2306.01708"

    @property
    def consensus(self) -> bool:
        """Always."""
        return True

    @property
    def prunes(self) -> bool:
        """Not with a density of 1."""
        return self.options.density < 1

    def pruned(self, stage: Stage, number: int, name: str, vector: Tensor) -> Tensor:
        """The largest entries."""
        kept = largest(vector.abs(), max(1, int(self.options.density * vector.numel())))
        return vector.masked_fill(~kept, 0.0)
