"""What methods share that merge a stage's weights with one other model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cl_bench.methods.base import Stage
from cl_bench.methods.merging import MergeOptions, begun_with

if TYPE_CHECKING:
    from torch import Tensor


class TwoModelOptions(MergeOptions):
    """Which other model."""

    other: Literal["previous", "base"] = Field(
        "previous",
        alias="with",
        description="the other model: the one that the stage began with, or the base model",
    )

    def weights(self, stage: Stage) -> Mapping[str, Tensor]:
        """Those of the other model, read when they are used."""
        return stage.weights(0 if self.other == "base" else begun_with(stage))
