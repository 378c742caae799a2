"""Block expansion (LLaMA Pro: Wu et al., ACL 2024, arXiv 2401.02415): train added layers alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Options, Stage, kept_by
from cl_bench.models.kinds import DECODERS

if TYPE_CHECKING:
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.methods.spec import StageSpec
    from cl_bench.training.update_plan import UpdatePlan


class BlockExpansionOptions(Options):
    """Options of block expansion."""

    every: Annotated[int, Field(gt=0)] = Field(
        4, description="a new layer behind so many of the model's own; the paper: 8 in 32"
    )
    blocks: Literal["same", "new"] = Field(
        "same",
        description="same: later stages train on those of the first; new: every stage adds its own "
        "and freezes the earlier ones, so that the model grows from stage to stage",
    )


class BlockExpansion(Method[BlockExpansionOptions]):
    """x + attn(x) + mlp(x + attn(x)) with o_proj = down_proj = 0 is x: a layer to be trained.

    Behind every `every`-th layer comes a copy of it with those two matrices (and biases) at 0, so
    that the grown model computes what the model did; the copies are trained, all of them and they
    alone. Layers that are left over at the top get none (the official script wants none left over).
    The paper expands a model once, for one corpus. What a second task does is our reading: `same`
    is the expansion of the paper, fine-tuned in sequence; `new` expands again, behind the layer
    that was added last, and protects the earlier ones. The checkpoint is an ordinary model with
    more layers, whose config.json names the added ones (`added_layers`).
    """

    name = "block_expansion"
    family = "growth"
    source = "Wu 2024, arXiv 2401.02415"

    def trains(self, shapes: Shapes) -> Trained:
        """The added layers, in the grown model.

        Raises UserError where they would be no identity.
        """
        from dataclasses import replace

        from cl_bench.costs.trained import only
        from cl_bench.methods.growth import added_layers, grown_layers, grown_shapes, layer_number

        if shapes.architecture is None:
            raise UserError(
                f"block_expansion: layers that change nothing are known of {', '.join(DECODERS)}, "
                f"whose branches end in o_proj and down_proj; this model is of type {shapes.kind}"
            )
        count = shapes.architecture.layers
        if self.options.every > count:
            raise UserError(
                f"block_expansion: every: {self.options.every}: this model has {count} layers"
            )
        if len(set((shapes.config or {}).get("layer_types") or ())) > 1:
            raise UserError(
                "block_expansion: the layers of this model differ in kind (layer_types), by their "
                "number: layers between them would turn others into another kind"
            )
        grown, added, trained = shapes, set[int](), set[int]()
        for _ in range(shapes.earlier + 1 if self.options.blocks == "new" else 1):
            layers = grown_layers(count, added, self.options.every)
            grown, count = grown_shapes(grown, layers), len(layers)
            added, trained = added_layers(layers, added)
        if self.options.blocks == "same":
            trained = added
        found = only(grown, lambda name: layer_number(name) in trained)
        lowest = min(trained)
        below = sum(
            grown.active(name, math.prod(shape))
            for name, shape in grown.parameters.items()
            if layer_number(name) in range(lowest)
        )
        flops = found.flops_per_token - 2 * below
        return replace(found, flops_per_token=flops, grown=grown, lowest=lowest)

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """What knows layers by their numbers, which change, or looked at the model before."""
        if not issubclass(stage.parts[0].method, BlockExpansion):
            yield "compose: the others would not see the layers that it adds: list it first"
        for part in stage.parts:
            method = part.method
            by_name = {"weights", "statistics"}.intersection(kept_by([method]))
            by_name |= {"weights"} if method.name == "kl_base" else set()
            if by_name or method.adapters or method(part.options).scores_another:
                yield (
                    f"adds layers, which gives the others new numbers, and {method.name} reads, "
                    "merges or adapts weights by name: use one of the two"
                )

    def prepare(self, stage: Stage) -> None:
        """Add layers: in the first stage, or with `blocks: new` in every one."""
        from cl_bench.methods.growth import grow, marked

        before = set() if stage.first else marked(stage.model)
        new = stage.first or self.options.blocks == "new"
        self._trained = grow(stage.model, before, self.options.every) if new else before
        stage.notes["trained_layers"] = sorted(self._trained)

    def plan(self, stage: Stage) -> UpdatePlan:
        """The added layers fully: those of this stage where every stage adds its own."""
        from cl_bench.methods.growth import layer_number
        from cl_bench.training.update_plan import Frozen, Full, UpdatePlan

        names = [name for name, _ in stage.model.named_parameters()]
        trained = [name for name in names if layer_number(name) in self._trained]
        return UpdatePlan({name: Full() for name in trained}, default=Frozen())
