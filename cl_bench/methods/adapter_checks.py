"""What a config asks of adapters that cannot be: targets, and stages that do not fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cl_bench.errors import UserError
from cl_bench.methods.targets import listed, tried
from cl_bench.models.layouts import patterns

if TYPE_CHECKING:
    from cl_bench.methods.base import Method
    from cl_bench.methods.spec import Checked, RunSpec, StageSpec
    from cl_bench.models.layouts import Shape

Targets = list[str] | str
_ATTENTION = (("q_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("Wqkv",), ("c_attn",))
"""TRACE's choice, and the fused layers that hold it elsewhere."""
_STATE_SPACE = ("in_proj",)
"""What can be adapted of Mamba, with fused kernels or without."""


def target_faults(found: Checked) -> Iterator[str]:
    """Targets that match nothing, that PEFT cannot adapt, without effect, or not to be merged."""
    from transformers import AutoConfig

    from cl_bench.costs.shapes import meta_model
    from cl_bench.methods.lora import LoRA
    from cl_bench.models.load import split_revision

    wanted = {
        (run.label, part.options.model_dump_json()): part.options
        for run in found.runs
        for stage in run.stages
        for part in stage.parts
        if issubclass(part.method, LoRA)
    }
    if not wanted:
        return
    name, revision = split_revision(str(found.model_path))
    values = AutoConfig.from_pretrained(name, revision=revision).to_dict()
    for (label, _), options in wanted.items():
        try:
            shapes, bypassed = tried(meta_model(values), options)  # type: ignore[arg-type]
        except UserError as error:
            yield from (f"methods: {label}: {fault}" for fault in error.faults)
        else:
            if fault := _ranks_that_do_not_add_up(shapes, options):
                yield f"methods: {label}: {fault}"
            if bypassed:
                found.note(
                    f"{label}: fused kernels of this model, where they are installed, read the "
                    f"weight of {', '.join(bypassed)} without its adapter, which then has no effect"
                )


def _ranks_that_do_not_add_up(shapes: Mapping[str, Shape], options: Any) -> str | None:
    """PEFT lays the ranks of all experts one below the other: O-LoRA's cannot be put there."""
    from cl_bench.methods.o_lora import OLoRAOptions

    first = {n: s[0] for n, s in shapes.items() if "lora_A" in n or "lora_embedding_A" in n}
    odd = [name.split(".lora_")[0] for name, rank in first.items() if rank != options.r]
    if not odd or not isinstance(options, OLoRAOptions):
        return None
    return (
        f"target_modules: {listed(options.target_modules or '')}: PEFT keeps the adapters of all "
        f"experts of {', '.join(patterns(odd))} in one matrix, to which o_lora cannot add those of "
        "the next stage; give layers that are no experts"
    )


def continuity_faults(found: Checked) -> Iterator[str]:
    """Stages that go on with an adapter, or with what was remembered of one, that is another."""
    from cl_bench.methods.ewc import EWC
    from cl_bench.methods.ogd import OGD

    for run in {run.label: run for run in found.runs}.values():
        yield from _changed_adapters(run)
        yield from _changed_memory(run, EWC)
        yield from _changed_memory(run, OGD)
        yield from _other_methods_behind(run)


def _changed_adapters(run: RunSpec) -> Iterator[str]:
    """A stage that goes on with an adapter cannot give it other options."""
    from cl_bench.methods.lora import LoRA, LoRAOptions
    from cl_bench.methods.o_lora import OLoRA

    for before, stage in zip(run.stages, run.stages[1:], strict=False):
        parts = [[p for p in one.parts if issubclass(p.method, LoRA)] for one in (before, stage)]
        if stage.start == "base" or not all(parts):
            continue
        (old, *_), (new, *_) = parts
        goes_on = (
            f"methods: {run.label}: stage {stage.index} goes on with the adapter of stage "
            f"{before.index}, "
        )
        if issubclass(old.method, OLoRA) and not issubclass(new.method, OLoRA):
            yield f"{goes_on}which {new.method.name} cannot: it is all of {old.method.name}'s"
        values = [part.options.model_dump() for part in (old, new)]
        if values[0].get("incremental"):  # it is merged, and the next stage has a new one
            continue
        neutral = LoRAOptions().model_dump()
        given = [{key: each.get(key, neutral[key]) for key in neutral} for each in values]
        if keys := [key for key in neutral if given[0][key] != given[1][key]]:
            yield f"{goes_on}which cannot have another {', '.join(keys)}; give both stages the same"


def _changed_memory(run: RunSpec, method: type[Method]) -> Iterator[str]:
    """EWC remembers the Fisher, OGD gradients of what it trained: weights, or one adapter."""
    from cl_bench.methods.o_lora import OLoRA

    last: StageSpec | None = None
    broken = False
    for stage in run.stages:
        last = None if stage.start == "base" else last
        broken = broken or not stage.adapters
        if not any(issubclass(part.method, method) for part in stage.parts):
            continue
        grown = any(issubclass(part.method, OLoRA) for part in stage.parts)
        broken = broken or grown
        if last is not None and (last.adapters != stage.adapters or (stage.adapters and broken)):
            old = "an adapter" if last.adapters else "the weights"
            new = "another adapter" if last.adapters else "an adapter"
            new = new if stage.adapters else "the weights"
            yield (
                f"methods: {run.label}: {method.name} remembers {old} of stage {last.index}, and "
                f"stage {stage.index} trains {new}: the one says nothing on the other; use "
                f"{method.name} in stages that train the same"
            )
        if last is not None and (other := _memory_options(last) ^ _memory_options(stage)):
            keys = ", ".join(sorted({key for key, _ in other}))
            yield (
                f"methods: {run.label}: stage {stage.index} goes on with what ewc remembers of "
                f"stage {last.index}, which cannot have another {keys}; give both stages the same"
            )
        last, broken = stage, not stage.adapters


def _other_methods_behind(run: RunSpec) -> Iterator[str]:
    """Functions cannot be merged; layers of a grown model have other numbers, by which methods know
    them and `plan` counts."""
    from cl_bench.methods.block_expansion import BlockExpansion
    from cl_bench.methods.function_methods import FunctionMethod

    for before, stage in zip(run.stages, run.stages[1:], strict=False):
        goes_on = f"methods: {run.label}: stage {stage.index} goes on with what "
        for kind in (BlockExpansion, FunctionMethod):
            old, new = ([p for p in s.parts if issubclass(p.method, kind)] for s in (before, stage))
            if stage.start == "base" or old == new:
                continue
            if old:
                yield (
                    f"{goes_on}{old[0].method.name} added to the model in stage {before.index}; "
                    "give both stages the same method and options"
                )
            elif _left_adapter(before) and new and issubclass(new[0].method, FunctionMethod):
                yield (
                    f"{goes_on}is an adapter of stage {before.index}, under which "
                    f"{new[0].method.name} has no place; give both stages the same method"
                )


def _left_adapter(stage: StageSpec) -> bool:
    """Whether its checkpoint is an adapter, not whole weights."""
    return stage.adapters and not any(getattr(p.options, "incremental", False) for p in stage.parts)


def _memory_options(stage: StageSpec) -> set[tuple[str, object]]:
    """EWC's options that decide what it remembers."""
    from cl_bench.methods.ewc import EWC, EWCOptions

    options = [part.options for part in stage.parts if issubclass(part.method, EWC)]
    return {
        (key, getattr(one, key))
        for one in options
        if isinstance(one, EWCOptions)
        for key in ("mode", "estimator", "anchors")
    }
