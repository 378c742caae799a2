"""Freezing the bottom layers (Zheng et al., ICLR 2025, arXiv 2501.13453), or the top ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Options, Stage
from cl_bench.models.places import numbered_layers

if TYPE_CHECKING:
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.training.update_plan import UpdatePlan


class FreezeLayersOptions(Options):
    """Options of freezing layers."""

    layers: Annotated[int, Field(ge=0)] = Field(
        1, description="how many layers are frozen; the paper advises 1 to 3"
    )
    side: Literal["bottom", "top"] = Field(
        "bottom", description="bottom: those next to the token embeddings; top: next to the head"
    )
    ends: Literal["frozen", "trained"] = Field(
        "frozen",
        description="what lies outside of the layers on that side: token embeddings at the bottom, "
        "last norm and head at the top",
    )
    freeze_first_task: bool = Field(
        False, description="false trains the first stage fully, as the paper does"
    )


class FreezeLayers(Method[FreezeLayersOptions]):
    """The `layers` lowest (or highest) decoder layers are frozen, the others trained.

    The paper freezes embeddings and bottom layers from the second task on: the alignment of
    earlier tasks, which is what later ones destroy first, is there. A head that is tied to the
    token embeddings is at the bottom. Early stopping, which the paper adds, is `epochs:`.
    """

    name = "freeze_layers"
    family = "parts"
    source = "Zheng 2025, arXiv 2501.13453"

    def plan(self, stage: Stage) -> UpdatePlan | None:
        """The frozen parameters by name."""
        from cl_bench.training.update_plan import Frozen, UpdatePlan

        if stage.first and not self.options.freeze_first_task:
            return None
        frozen = self._frozen([name for name, _ in stage.model.named_parameters()])
        return UpdatePlan({name: Frozen() for name in frozen})

    def trains(self, shapes: Shapes) -> Trained:
        """What is not frozen; below the lowest trained layer nothing is passed back.

        Activations there are counted nevertheless, an upper bound.
        Raises UserError where the model has fewer layers than are to be frozen.
        """
        from dataclasses import replace

        from cl_bench.costs.trained import everything, only

        frozen = set(self._frozen(shapes.parameters))
        found = only(shapes, lambda name: name not in frozen)
        if self.options.side == "bottom" and self.options.ends == "frozen":
            below = sum(shapes.active(n, math.prod(shapes.parameters[n])) for n in frozen)
            found = replace(found, flops_per_token=found.flops_per_token - 2 * below)
        if shapes.earlier or self.options.freeze_first_task:
            return found
        return everything(shapes)

    def _frozen(self, names: Iterable[str]) -> list[str]:
        """Names of the frozen parameters, given all of them in the model's order."""
        names, options = list(names), self.options
        number = numbered_layers(names)
        count = max(number.values(), default=-1) + 1
        if options.layers > count:
            raise UserError(f"freeze_layers: layers: {options.layers}: this model has {count}")
        if options.side == "bottom":
            chosen = {name for name, n in number.items() if n < options.layers}
            ends = names[: names.index(next(iter(number)))] if number else []
        else:
            chosen = {name for name, n in number.items() if n >= count - options.layers}
            ends = names[names.index(list(number)[-1]) + 1 :] if number else []
        if options.ends == "frozen":
            chosen |= set(ends)
        return [name for name in names if name in chosen]
