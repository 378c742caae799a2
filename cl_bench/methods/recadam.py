"""RecAdam, recall and learn (Chen et al., EMNLP 2020, arXiv 2004.12651)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cl_bench.methods.anchors import Anchor, anchor_faults, anchor_of
from cl_bench.methods.base import Method, Options, Stage, Step

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.methods.spec import StageSpec


class RecAdamOptions(Options):
    """Options of RecAdam; the defaults are those of the official script."""

    anneal: Literal["sigmoid", "linear", "constant"] = Field(
        "sigmoid", description="how the task's share grows; constant: plain fine-tuning"
    )
    k: Annotated[float, Field(ge=0)] = Field(0.5, description="slope of the sigmoid")
    t0: Annotated[float, Field(gt=0)] = Field(
        250, description="update at which the sigmoid is at half, or the line at its end"
    )
    weight: Annotated[float, Field(gt=0)] = Field(
        1.0, description="what the shares of task and pull add up to"
    )
    gamma: Annotated[float, Field(ge=0)] = Field(5000.0, description="strength of the pull")
    anchor: Anchor = Field(
        "base", description="base: towards the base model (the paper); previous: where it began"
    )

    def share(self, update: int) -> float:
        """lambda(t), the task's share at an update, from 1; 0 to `weight`."""
        if self.anneal == "constant":
            return self.weight
        if self.anneal == "linear":
            return self.weight * min(1.0, update / self.t0)
        return self.weight / (1 + math.exp(min(-self.k * (update - self.t0), 700.0)))


class RecAdam(Method[RecAdamOptions]):
    """Adam whose step is scaled by lambda(t), then a pull of weight - lambda(t) to the old weights.

        theta <- theta - lr * lambda(t) * m / (sqrt(v) + eps)
        theta <- theta - lr * (weight - lambda(t)) * gamma * (theta - theta*)

    lambda(t) = weight / (1 + exp(-k (t - t0))), t the update of the stage. The pull does not pass
    through the moments, as decay does not in AdamW, and is taken at the weights after the step, as
    in the official code. The share also scales the task's step: long before t0 a stage learns next
    to nothing. theta* are the base model's weights in every stage, or those that the stage began
    with. The official eps is 1e-6, added before the correction for bias; here it is the engine's.
    """

    name = "recadam"
    family = "penalties"
    source = "Chen 2020, arXiv 2004.12651"
    keeps = "weights"

    def adds(self, shapes: Shapes) -> Cost:
        """An anchor of every entry, and within an update the masters before it."""
        from cl_bench.costs.added import kept

        return kept((shapes.dtype_bytes + shapes.entry_bytes) * shapes.numel)

    def refuses(self, stage: StageSpec) -> Iterator[str]:
        """A pull that overshoots, which would end in infinite weights."""
        own = self.options
        largest = stage.train.lr * own.weight * own.gamma
        if own.anneal != "constant" and largest > 1:
            yield (
                f"gamma: lr * weight * gamma is {largest:g}, so that a pull of the first updates "
                f"would overshoot: at most 1, here gamma: {1 / (stage.train.lr * own.weight):g}"
            )
        yield from anchor_faults(stage, own.anchor)

    def prepare(self, stage: Stage) -> None:
        """theta*."""
        self._anchor = anchor_of(stage, self.options.anchor)
        self._notes = stage.notes

    def before_step(self, step: Step) -> None:
        """Keeps what the step begins with: AdamW takes it whole."""
        self._step = step
        self._before = {name: master.clone() for name, master in step.masters.items()}

    def after_step(self, masters: Mapping[str, Tensor]) -> bool:
        """lambda of the step that was taken, then the pull."""
        share, step = self.options.share(self._step.number), self._step
        pull = step.lr * (self.options.weight - share) * self.options.gamma
        for name, master in masters.items():
            anchor = step.compact(name, self._anchor[name]).to(master.dtype)
            master.copy_(self._before[name].lerp_(master, share))
            master.sub_(master - anchor, alpha=pull)
        self._notes["task_share_at_end"] = round(share, 6)
        del self._before, self._step
        return True
