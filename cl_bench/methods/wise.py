"""WiSE-FT (Wortsman et al. 2022): interpolate between the weights before and after training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cl_bench.methods.base import Stage
from cl_bench.methods.merging import Merging, Rule, lerp
from cl_bench.methods.two_models import TwoModelOptions


class WiSEOptions(TwoModelOptions):
    """Options of WiSE-FT."""

    alpha: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="share of the trained weights; 1 is plain training, 0 undoes it"
    )


class WiSE(Merging[WiSEOptions]):
    """theta = (1 - alpha) theta_other + alpha theta_trained, every parameter.

    The paper's other model is the one before fine-tuning, and its ensemble is only scored. Here the
    ensemble is by default what the next stage goes on from (`for: training`).
    """

    name = "wise"
    family = "merges"
    source = "Wortsman 2022, arXiv 2109.01903"

    def rule(self, stage: Stage) -> Rule:
        """A line between the two."""
        other, alpha = self.options.weights(stage), self.options.alpha
        return lambda name, own: lerp(other[name], own, alpha)
