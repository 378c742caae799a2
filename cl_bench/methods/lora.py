"""LoRA as TRACE trains it: one PEFT adapter through all stages, never merged or reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Options, Stage
from cl_bench.models.layouts import patterns

if TYPE_CHECKING:
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.training.update_plan import UpdatePlan


class LoRAOptions(Options):
    """Options of LoRA; defaults are TRACE's."""

    r: Annotated[int, Field(gt=0)] = Field(8, description="rank")
    lora_alpha: Annotated[float, Field(gt=0)] = Field(32, description="scale is lora_alpha / r")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="of the adapter's input in training"
    )
    target_modules: Annotated[list[str], Field(min_length=1)] | str | None = Field(
        None,
        description="names of linear layers, or all-linear; q_proj and v_proj, else PEFT's choice",
    )


class LoRA(Method[LoRAOptions]):
    """Low-rank adapters (Hu et al. 2021) with fp32 masters; the base model never moves."""

    name = "lora"
    family = "adapters"
    source = "Hu 2021, arXiv 2106.09685"
    train_defaults: ClassVar[Mapping[str, Any]] = {"lr": 1e-4}
    adapters = True

    def prepare(self, stage: Stage) -> None:
        """Wrap the model; from the second stage on it comes with the adapter of the first."""
        import torch
        from peft import PeftModel

        from cl_bench.methods.targets import adapted, targets_of_model
        from cl_bench.seeds import derive_seed

        if isinstance(stage.model, PeftModel):
            return
        targets = targets_of_model(self.options, stage.model)
        if self.options.target_modules is None:
            stage.notes["target_modules"] = targets
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(stage.seed, "lora"))
            stage.model = adapted(stage.model, self.options, targets)

    def plan(self, stage: Stage) -> UpdatePlan:
        """Only the adapter's matrices are trained."""
        from cl_bench.training.update_plan import Frozen, Full, UpdatePlan

        adapters = [name for name, p in stage.model.named_parameters() if p.requires_grad]
        return UpdatePlan({name: Full() for name in adapters}, default=Frozen())

    def finish(self, stage: Stage) -> None:
        """Says which adapters nothing came through: the second matrix, which begins at 0, is 0."""
        still = [
            name.split(".lora_")[0].removeprefix("base_model.model.")
            for name, parameter in stage.model.named_parameters()
            if "lora_B" in name or "lora_embedding_B" in name
            if not bool(parameter.any())
        ]
        if still:
            stage.notes["without_effect"] = patterns(still)

    def trains(self, shapes: Shapes) -> Trained:
        """Frozen weights, and full state for `r * (Din + Dout)` entries of each target."""
        from dataclasses import replace

        from cl_bench.costs.added import Cost
        from cl_bench.costs.trained import adapters, lora_adapters
        from cl_bench.methods.targets import adapter_shapes, targets_of_shapes

        options = self.options
        targets = targets_of_shapes(options, shapes)
        if shapes.architecture is None and shapes.config is not None:
            added = adapter_shapes(shapes.config, options)
            beside = frozenset(name for name in added if "lora_embedding_" in name)
            found = adapters(shapes, added, beside)
        else:
            found = lora_adapters(shapes, options.r, targets, options.dropout)
        if not found.entries:
            raise UserError(f"lora: target_modules: {targets}: no layer of this model is called so")
        if options.target_modules is None and targets != ["q_proj", "v_proj"]:
            said = Cost(remarks=(f"adapts {', '.join(targets)} (target_modules)",))
            found = replace(found, adds=found.adds + said)
        return found
