"""What LoRA's `target_modules` mean for a model, and what is refused before anything is paid for.

PEFT itself is asked, on a model without weights: it knows which layers it can adapt, and how large
the adapters are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cl_bench.errors import UserError
from cl_bench.methods.direct_reads import direct_reads
from cl_bench.models.layouts import is_router, patterns

if TYPE_CHECKING:
    from cl_bench.costs.shapes import Shapes
    from cl_bench.methods.base import Method
    from cl_bench.methods.lora import AdapterOptions
    from cl_bench.methods.spec import Checked, RunSpec, StageSpec
    from cl_bench.models.layouts import Shape

Targets = list[str] | str
_ATTENTION = (("q_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("Wqkv",), ("c_attn",))
"""TRACE's choice, and the fused layers that hold it elsewhere."""
_STATE_SPACE = ("in_proj",)
"""What can be adapted of Mamba, with fused kernels or without."""


def default_targets(names: Iterable[str], kind: str) -> list[str]:
    """Layers that are adapted when the user names none: q and v, else PEFT's choice for `kind`.

    `names`: of the linear layers; `kind`: the config's `model_type`. Raises UserError where there
    is no default.
    """
    last = {name.rsplit(".", 1)[-1] for name in names}
    if last.issuperset(_ATTENTION[0]):
        return list(_ATTENTION[0])
    from peft.utils import constants

    of_peft = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind)
    for choice in ([of_peft] if isinstance(of_peft, list) else []) + [list(c) for c in _ATTENTION]:
        if last.issuperset(choice):
            return choice
    found = [name for name in _STATE_SPACE if name in last]
    if not found:
        raise UserError(
            f"lora: no default for a model of type {kind}: give target_modules, from "
            f"{', '.join(sorted(last))}"
        )
    return found


def targets_of_shapes(options: AdapterOptions, shapes: Shapes) -> Targets:
    """The targets for a model of which only shapes are known."""
    if options.target_modules is not None:
        return options.target_modules
    linear = [n.removesuffix(".weight") for n in shapes.parameters if shapes.layout(n).linear]
    return default_targets(linear, shapes.kind)


def targets_of_model(options: AdapterOptions, model: Any) -> Targets:
    """The targets for a model."""
    if options.target_modules is not None:
        return options.target_modules
    return default_targets(linear_layers(model), model.config.model_type)


def linear_layers(model: Any) -> list[str]:
    """Names of the linear layers but the output head."""
    from torch import nn

    from cl_bench.models.layouts import is_conv1d

    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if module is not head
        and (isinstance(module, nn.Linear) or is_conv1d(module))
        and not is_router(module)
    ]


def adapted(model: Any, options: AdapterOptions, targets: Targets) -> Any:
    """`model` wrapped by PEFT with fresh adapters; raises what PEFT raises."""
    import warnings

    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=options.r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        **options.of_peft(on_meta=next(model.parameters()).is_meta),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # PEFT sets it for Conv1D
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")  # it asks
        return get_peft_model(model, config, autocast_adapter_dtype=False)


def adapter_shapes(config: Mapping[str, Any], options: AdapterOptions) -> dict[str, Shape]:
    """Shapes of the adapters that PEFT adds to the model of a config.json.

    Raises UserError with the reason where it adds none, or the merged model would be another one.
    """
    from cl_bench.costs.shapes import meta_model

    return _try(meta_model(config), options)[0]


def _try(model: Any, options: AdapterOptions) -> tuple[dict[str, Shape], list[str]]:
    """Shapes of the adapters, and patterns of layers whose adapter fused kernels would bypass."""
    targets = targets_of_model(options, model)
    read = direct_reads(model)
    sound = [name for name in linear_layers(model) if name not in read]
    named = {name.rsplit(".", 1)[-1] for name in sound}
    missing = _matching_nothing(model, targets)
    if missing:
        raise UserError(
            f"target_modules: {', '.join(missing)}: not in this model; layers that can be adapted "
            f"are {', '.join(sorted(named))}"
        )
    if stacks := options.of_peft(on_meta=True).get("target_parameters"):
        refuse_unknown_stacks(stacks, {n: tuple(p.shape) for n, p in model.named_parameters()})
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    tied = None if head is None or head.weight is not inputs.weight else head.weight
    try:
        wrapped = adapted(model, options, targets)
    except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        remedy = "dropout: 0" if "dropout" in reason else f"layers of {', '.join(sorted(named))}"
        raise UserError(
            f"target_modules: {_text(targets)}: PEFT refuses it ({reason}); give {remedy}"
        ) from error
    on = [
        name.removeprefix("base_model.model.")
        for name, module in wrapped.named_modules()
        if hasattr(module, "lora_A")
    ]
    if dead := [name for name in on if not read.get(name, True)]:
        raise UserError(
            f"target_modules: {_text(targets)}: an adapter of {', '.join(patterns(dead))} has no "
            "effect: the model reads the weight of this layer and never calls it; give layers of "
            f"{', '.join(sorted(named))}"
        )
    layers = dict(model.named_modules())
    if routers := [n for n in on if is_router(layers[n].get_base_layer())]:
        raise UserError(
            f"target_modules: {_text(targets)}: {', '.join(patterns(routers))} returns more than a "
            "product, to which PEFT cannot add an adapter's; give layers of "
            f"{', '.join(sorted(named))}"
        )
    for module in wrapped.modules():
        base = module.get_base_layer() if hasattr(module, "lora_A") else None
        if tied is not None and getattr(base, "weight", None) is tied:
            raise UserError(
                f"target_modules: {_text(targets)}: embeddings and output head of this model are "
                "one weight, and an adapter of one of them cannot be merged into it; leave them out"
            )
    shapes = {
        name.removeprefix("base_model.model."): tuple(parameter.shape)
        for name, parameter in wrapped.named_parameters()
        if "lora_" in name
    }
    return shapes, patterns(name for name in on if name in read)


def _matching_nothing(model: Any, targets: Targets) -> list[str]:
    """Names of the list that no module ends with (PEFT wants one of them to match)."""
    if isinstance(targets, str):
        import re

        hit = targets.lower() == "all-linear" or any(
            re.fullmatch(targets, name) for name, _ in model.named_modules()
        )
        return [] if hit else [f"{targets} (a pattern for whole names; write [{targets}])"]
    names = [f".{name}" for name, _ in model.named_modules()]
    return [t for t in targets if not any(name.endswith(f".{t}") for name in names)]


def refuse_unknown_stacks(wanted: Iterable[str], shapes: Mapping[str, Shape]) -> None:
    """Raise UserError for names of `target_parameters` that no stack of experts ends with."""
    stacks = [name for name, shape in shapes.items() if len(shape) == 3]
    missing = [t for t in wanted if not any(f".{name}".endswith(f".{t}") for name in stacks)]
    if missing:
        last = sorted({".".join(name.split(".")[-3:]) for name in stacks})
        there = f"has {', '.join(last)}" if last else "has none"
        raise UserError(
            f"target_parameters: {', '.join(missing)}: no stack of experts of this model, which "
            f"{there}"
        )


def _text(targets: Targets) -> str:
    return targets if isinstance(targets, str) else f"[{', '.join(targets)}]"


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
            shapes, bypassed = _try(meta_model(values), options)  # type: ignore[arg-type]
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
        f"target_modules: {_text(options.target_modules or '')}: PEFT keeps the adapters of all "
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
