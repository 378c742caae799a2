"""LoRA as TRACE trains it: one PEFT adapter through all stages, never merged or reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from cl_bench.methods.base import Method, Options, Stage

if TYPE_CHECKING:
    from cl_bench.training.memory import Cost
    from cl_bench.training.plan import UpdatePlan
    from cl_bench.training.shapes import Shapes


class LoRAOptions(Options):
    """Options of LoRA; defaults are TRACE's."""

    r: Annotated[int, Field(gt=0)] = Field(8, description="rank")
    lora_alpha: Annotated[float, Field(gt=0)] = Field(32, description="scale is lora_alpha / r")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    target_modules: list[str] | str = Field(
        default_factory=lambda: ["q_proj", "v_proj"],
        description="names of linear layers, or all-linear",
    )


class LoRA(Method):
    """Low-rank adapters (Hu et al. 2021) with fp32 masters; the base model never moves."""

    name = "lora"
    options_type = LoRAOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {"lr": 1e-4}
    adapters = True

    def prepare(self, stage: Stage) -> None:
        """Wrap the model; from the second stage on it comes with the adapter of the first."""
        import torch
        from peft import LoraConfig, PeftModel, TaskType, get_peft_model

        if isinstance(stage.model, PeftModel):
            return
        options = self.options
        config = LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=options.r,
            lora_alpha=options.lora_alpha,
            lora_dropout=options.dropout,
            target_modules=options.target_modules,
        )
        from cl_bench.seeds import derive_seed

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(stage.seed, "lora"))
            wrapped: Any = get_peft_model(
                stage.model,
                config,
                autocast_adapter_dtype=False,
            )
        stage.model = wrapped

    def plan(self, stage: Stage) -> UpdatePlan:
        """Only the adapter's matrices are trained."""
        from cl_bench.training.plan import Frozen, Full, UpdatePlan

        adapters = [name for name, p in stage.model.named_parameters() if p.requires_grad]
        return UpdatePlan({name: Full() for name in adapters}, default=Frozen())

    def cost(self, shapes: Shapes) -> Cost:
        """Frozen weights, and full state for `r * (Din + Dout)` entries of each target."""
        from cl_bench.training.memory import lora_cost

        options = self.options
        return lora_cost(shapes, options.r, options.target_modules, options.dropout)
