"""Weights that a method pulls towards: where the stage began, or the base model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from cl_bench.methods.base import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.methods.spec import StageSpec

Anchor = Literal["base", "previous"]


def anchor_of(stage: Stage, anchor: Anchor) -> dict[str, Tensor]:
    """A copy of every trainable parameter as the anchor has it, in the run's dtype.

    Called in `prepare`, where the model is as the stage before left it.
    """
    own = {name: p.detach() for name, p in stage.model.named_parameters() if p.requires_grad}
    if anchor == "previous" or stage.first:
        return {name: value.clone() for name, value in own.items()}
    base = stage.weights(0)
    return {name: base[name].to(value, copy=True) for name, value in own.items()}


def anchor_faults(stage: StageSpec, anchor: Anchor) -> Iterator[str]:
    """The base model has no adapter that a later stage's could be pulled to."""
    if anchor == "base" and stage.adapters and stage.index > 1 and stage.start != "base":
        yield (
            "anchor: base: the stage trains an adapter, which the base model does not have; "
            "give anchor: previous"
        )
