"""What LoRA's `target_modules` mean for a model, and what is refused before anything is paid for.

PEFT itself is asked, on a model without weights: it knows which layers it can adapt, and how large
the adapters are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cl_bench.errors import UserError
from cl_bench.methods.direct_reads import direct_reads
from cl_bench.models.layouts import is_router, patterns

if TYPE_CHECKING:
    from cl_bench.costs.shapes import Shapes
    from cl_bench.methods.adapter_options import AdapterOptions
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

    return tried(meta_model(config), options)[0]


def tried(model: Any, options: AdapterOptions) -> tuple[dict[str, Shape], list[str]]:
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
    # Whatever PEFT raises for a kind of layer, or for options that it does not have there.
    except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        remedy = "dropout: 0" if "dropout" in reason else f"layers of {', '.join(sorted(named))}"
        raise UserError(
            f"target_modules: {listed(targets)}: PEFT refuses it ({reason}); give {remedy}"
        ) from error
    on = [
        name.removeprefix("base_model.model.")
        for name, module in wrapped.named_modules()
        if hasattr(module, "lora_A")
    ]
    if dead := [name for name in on if not read.get(name, True)]:
        raise UserError(
            f"target_modules: {listed(targets)}: an adapter of {', '.join(patterns(dead))} has no "
            "effect: the model reads the weight of this layer and never calls it; give layers of "
            f"{', '.join(sorted(named))}"
        )
    layers = dict(model.named_modules())
    if routers := [n for n in on if is_router(layers[n].get_base_layer())]:
        raise UserError(
            f"target_modules: {listed(targets)}: {', '.join(patterns(routers))} returns more than "
            "a product, to which PEFT cannot add an adapter's; give layers of "
            f"{', '.join(sorted(named))}"
        )
    for module in wrapped.modules():
        base = module.get_base_layer() if hasattr(module, "lora_A") else None
        if tied is not None and getattr(base, "weight", None) is tied:
            raise UserError(
                f"target_modules: {listed(targets)}: embeddings and output head of this model are "
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


def listed(targets: Targets) -> str:
    return targets if isinstance(targets, str) else f"[{', '.join(targets)}]"
