"""Spherical interpolation between the weights before and after training (mergekit's `slerp`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cl_bench.methods.base import Stage
from cl_bench.methods.merging import Merging, Rule, slerp
from cl_bench.methods.two_models import TwoModelOptions


class SLERPOptions(TwoModelOptions):
    """Options of SLERP."""

    t: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="place on the arc: 0 is the other model, 1 the trained one"
    )


class SLERP(Merging[SLERPOptions]):
    """sin((1 - t) w) / sin w * theta_other + sin(t w) / sin w * theta_trained, tensor by tensor.

    w is the angle between the two tensors. Where its cosine is above 0.9995, as it is for most
    tensors after fine-tuning at a small learning rate, the two are interpolated linearly.
    """

    name = "slerp"
    family = "merges"
    source = "Shoemake 1985"

    def rule(self, stage: Stage) -> Rule:
        """An arc between the two."""
        other, t = self.options.weights(stage), self.options.t
        return lambda name, own: slerp(other[name], own, t)
