"""LoRA as TRACE trains it: one PEFT adapter through all stages, never merged or reset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from cl_bench.errors import UserError
from cl_bench.methods.adapter_options import AdapterOptions
from cl_bench.methods.base import Method, Options, Stage, kept_by, unsplit
from cl_bench.models.layouts import patterns

if TYPE_CHECKING:
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.methods.spec import StageSpec
    from cl_bench.training.update_plan import UpdatePlan


class LoRAOptions(AdapterOptions):
    """Options of LoRA; defaults are TRACE's."""

    target_parameters: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="stacks of experts that are adapted too, as mlp.experts.down_proj; dropout: 0",
    )
    incremental: bool = Field(
        False, description="true: a new adapter in every stage, merged into the weights at its end"
    )
    rslora: bool = Field(False, description="true: the scale is lora_alpha / sqrt(r)")
    use_dora: bool = Field(
        False, description="true: DoRA, which also trains the length of every output unit's weights"
    )
    init: Literal["kaiming", "gaussian", "orthogonal", "pissa", "olora"] = Field(
        "kaiming",
        description="of the adapter, as PEFT has it; pissa and olora take it out of the weights, "
        "and need incremental: true",
    )

    @property
    def moves_weights(self) -> bool:
        """Whether the adapter begins as a part of the weights, which are then without it."""
        return self.init in ("pissa", "olora")

    def of_peft(self, on_meta: bool = False) -> dict[str, Any]:
        """See `AdapterOptions`."""
        init: bool | str = True if self.init == "kaiming" else self.init
        return {
            "use_rslora": self.rslora,
            "use_dora": self.use_dora,
            "init_lora_weights": True if on_meta else init,
            "target_parameters": self.target_parameters,
        }


class LoRA(Method[AdapterOptions]):
    """Low-rank adapters (Hu et al. 2021) with fp32 masters; the base model never moves.

    `incremental` is IncLoRA: each stage trains a new adapter on weights that have the earlier ones
    in them, and leaves whole weights. DoRA (Liu et al. 2024), the scale of rsLoRA (Kalajdzievski
    2023), PiSSA (Meng et al. 2024) and OLoRA (Buyukakyuz 2024) are PEFT's.
    """

    name = "lora"
    family = "adapters"
    splits = True
    source = "Hu 2021, arXiv 2106.09685"
    options_type: ClassVar[type[Options]] = LoRAOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {"lr": 1e-4}
    adapters = True

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """Beginnings that need whole weights saved, and memories of an adapter that is merged."""
        options = self.options
        if not isinstance(options, LoRAOptions):
            return
        if stage.train.splitting:
            yield from unsplit(
                ("incremental: true", options.incremental, "false"),
                ("use_dora: true", options.use_dora, "false"),
                ("target_parameters", options.target_parameters is not None, "target_modules"),
            )
        if options.target_parameters and options.dropout:
            yield "target_parameters: adapters of experts know no dropout; give dropout: 0"
        if options.target_parameters and (options.use_dora or options.moves_weights):
            yield "target_parameters: DoRA, pissa and olora are of layers, not of stacks of experts"
        if options.moves_weights and not options.incremental:
            yield (
                f"init: {options.init}: takes the adapter out of the weights under it, which would "
                "be in no checkpoint; give incremental: true"
            )
        for part in stage.parts if options.incremental else ():
            if "statistics" in kept_by([part.method]):
                yield (
                    f"incremental: {part.method.name} remembers an adapter, and every stage has "
                    "another; leave one of them out"
                )

    def prepare(self, stage: Stage) -> None:
        """Wrap the model; from the second stage on it comes with the adapter of the first."""
        import torch
        from peft import PeftModel

        from cl_bench.methods.targets import adapted, targets_of_model
        from cl_bench.seeds import derive_seed

        if isinstance(stage.model, PeftModel):
            _to_device(stage)
            return
        targets = targets_of_model(self.options, stage.model)
        if self.options.target_modules is None:
            stage.notes["target_modules"] = targets
        with torch.random.fork_rng(devices=[]):
            own = [stage.index] if self._incremental else []
            torch.manual_seed(derive_seed(stage.seed, "lora", *own))
            stage.model = adapted(stage.model, self.options, targets)
        _to_device(stage)

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
        if self._incremental:
            stage.model = stage.model.merge_and_unload()  # type: ignore[operator]

    @property
    def _incremental(self) -> bool:
        return isinstance(self.options, LoRAOptions) and self.options.incremental

    def trains(self, shapes: Shapes) -> Trained:
        """Frozen weights, and full state for `r * (Din + Dout)` entries of each target."""
        from dataclasses import replace

        from cl_bench.costs.added import Cost
        from cl_bench.costs.trained import adapters, lora_adapters
        from cl_bench.methods.targets import (
            adapter_shapes,
            refuse_unknown_stacks,
            targets_of_shapes,
        )

        options = self.options
        targets = targets_of_shapes(options, shapes)
        if isinstance(options, LoRAOptions) and options.target_parameters:
            refuse_unknown_stacks(options.target_parameters, shapes.parameters)
        if shapes.architecture is None and shapes.config is not None:
            added = adapter_shapes(shapes.config, options)
            beside = frozenset(name for name in added if "lora_embedding_" in name)
            found = adapters(shapes, added, beside)
        else:
            dora = isinstance(options, LoRAOptions) and options.use_dora
            found = lora_adapters(shapes, options.r, targets, options.dropout, dora)
        if not found.entries:
            raise UserError(f"lora: target_modules: {targets}: no layer of this model is called so")
        if options.target_modules is None and targets != ["q_proj", "v_proj"]:
            said = Cost(remarks=(f"adapts {', '.join(targets)} (target_modules)",))
            found = replace(found, adds=found.adds + said)
        if isinstance(options, LoRAOptions) and options.use_dora:
            said = Cost(remarks=("what DoRA computes beside its matrices is not counted",))
            found = replace(found, adds=found.adds + said)
        if self._incremental:
            found = replace(found, checkpoint=shapes.numel * shapes.dtype_bytes)
        return found


def _to_device(stage: Stage) -> None:
    """PEFT puts adapters where the weights under them are, which may be the main memory."""
    for parameter in stage.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(stage.device)
