"""L2-SP (Li, Grandvalet and Davoine, ICML 2018, arXiv 1802.01483): stay near a starting point."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cl_bench.methods.anchors import Anchor, anchor_faults, anchor_of
from cl_bench.methods.base import Method, Options, Stage, Step

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.methods.spec import StageSpec


class L2SPOptions(Options):
    """Options of L2-SP."""

    strength: Annotated[float, Field(ge=0)] = Field(
        0.1, alias="lambda", description="strength of the pull"
    )
    anchor: Anchor = Field(
        "base", description="base: towards the base model (the paper); previous: where it began"
    )


class L2SP(Method[L2SPOptions]):
    """loss + lambda / 2 * sum (theta - theta*)^2, its gradient added once per update.

    theta* are the weights of the base model, the paper's starting point, in every stage, or those
    that the stage began with. The paper decays the weights of a new output layer towards 0 with a
    strength of its own; a language model keeps its head, so all weights have a starting point. As
    in the paper the pull is part of the loss, so it passes through the optimiser (clipping and Adam
    scale it; RecAdam is the decoupled one). With adapters theta are the adapters.
    """

    name = "l2sp"
    family = "penalties"
    source = "Li 2018, arXiv 1802.01483"
    keeps = "weights"

    def adds(self, shapes: Shapes) -> Cost:
        """An anchor of every entry, which is a checkpoint that exists anyway."""
        from cl_bench.costs.added import kept

        return kept(shapes.dtype_bytes * shapes.numel)

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """An anchor that the base model does not have."""
        return anchor_faults(stage, self.options.anchor)

    def prepare(self, stage: Stage) -> None:
        """theta*."""
        self._anchor: dict[str, Tensor] = {}
        if self.options.strength:
            self._anchor = anchor_of(stage, self.options.anchor)

    def before_step(self, step: Step) -> None:
        """grad += lambda (theta - theta*)."""
        for name in self._anchor.keys() & step.grads.keys():
            master = step.masters[name]
            anchor = step.compact(name, self._anchor[name]).to(master.dtype)
            step.grads[name].add_(master - anchor, alpha=self.options.strength)
