"""What classes of methods tell of a stage that could not be trained, before anything is paid for.

A method of the user's own wraps the model in `prepare`, where it is seen only after the base model
was scored; its file says earlier which adapters of PEFT it asks for.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, overrides

if TYPE_CHECKING:
    from cl_bench.methods.spec import Checked, RunSpec, StageSpec

ONCE = {
    "plan": "decide which parameters are trained",
    "phases": "define training phases",
}
"""Hooks that one method of a composition may answer."""
WITHOUT_OWN_MEMORY = ("cpu",)
"""Kinds of devices whose memory is the main memory."""


def composition_fault(classes: Sequence[type[Method]]) -> str | None:
    """Two methods that both define phases or restrict the parameters.

    Of `plan` those that are shipped: a user's own may leave it to the other, so it is asked when it
    runs.
    """
    for hook, what in ONCE.items():
        names = [
            cls.name
            for cls in classes
            if overrides(cls, hook)
            and not (hook == "phases" and overrides(cls, "answers"))
            and (hook != "plan" or cls.__module__.startswith("cl_bench."))
        ]
        if len(names) > 1:
            return f"compose: {' and '.join(names)} both {what}; only one part may"
    return None


def adapter_fault(model: Any) -> str | None:
    """Why a model that PEFT wrapped cannot be trained or scored here; None where it can."""
    configs = getattr(model, "peft_config", {})
    for config in configs.values() if isinstance(configs, dict) else ():
        if why := _reason(config.peft_type):
            return f"{config.peft_type.value} {why}"
    return None


def file_faults(found: Checked) -> Iterator[str]:
    """Adapters that files of methods ask PEFT for, and that cannot be trained or scored."""
    files = {
        (run.label, inspect.getfile(part.method))
        for run in found.runs
        for stage in run.stages
        for part in stage.parts
        if not part.method.__module__.startswith("cl_bench.")
    }
    for label, file in sorted(files):
        if "peft" not in (text := Path(file).read_text(encoding="utf-8")):
            continue
        for line, kind, why in _asked(ast.parse(text)):
            yield f"methods: {label}: {file}, line {line}: {kind} {why}"


def stage_faults(found: Checked) -> Iterator[str]:
    """What methods say themselves of the stages that they would train (`Method.refuses`).

    And two that both define phases, with the options that they have there (`Method.answers`).
    """
    yield from faults_of_stages(found.runs)


def faults_of_stages(runs: Sequence[RunSpec]) -> Iterator[str]:
    """The same of these runs; neither model nor data are needed."""
    for run in {run.label: run for run in runs}.values():
        for stage in run.stages:
            both = [p.method.name for p in stage.parts if p.method(p.options).answers("phases")]
            if len(both) > 1:
                yield (
                    f"methods: {run.label}: stage {stage.index}: compose: {' and '.join(both)} "
                    f"both {ONCE['phases']}; only one part may"
                )
            where = f"methods: {run.label}: stage {stage.index}: "
            yield from (where + fault for fault in _apart_faults(stage))
            for part in stage.parts:
                for fault in part.method(part.options).refuses(stage):
                    yield f"methods: {run.label}: stage {stage.index}: {part.method.name}: {fault}"


def _apart_faults(stage: StageSpec) -> Iterator[str]:
    """Methods for which weights, gradients or their own tensors cannot be where `train:` says."""
    train, offload = stage.train, stage.train.offload
    for method in (part.method for part in stage.parts):
        known = f"with it work {', '.join(_that_split())}"
        if train.shard and not _splits(method):
            yield (
                f"{method.name} needs whole weights, and train.shard splits them over the "
                f"processes: give shard: false; {known}"
            )
        for part in ("optimiser", "weights") if not _splits(method) else ():
            if part in offload:
                yield (
                    f"{method.name} needs weights and gradients on the card, and train.offload "
                    f"has {part} in main memory: leave it out; {known}"
                )
    if "method" in offload and train.splitting:
        yield (
            "train.offload: [method] moves whole tensors, and split ones (train.shard, offload: "
            "[weights]) stay on the card: leave one of them out"
        )
    if "method" in offload and not any(part.method.offloads for part in stage.parts):
        names = " + ".join(part.method.name for part in stage.parts)
        able = ", ".join(name for name, cls in _shipped() if cls.offloads)
        yield (
            f"train.offload: [method] would do nothing: {names} keeps no tensors that it moves "
            f"({able} does): leave it out"
        )


def offload_faults(found: Checked) -> Iterator[str]:
    """`train.offload` where the run computes in main memory; `plan` does not know where it will."""
    if found.device in WITHOUT_OWN_MEMORY:
        for run in found.runs:
            if any(stage.train.offload for stage in run.stages):
                yield (
                    f"train.offload: {run.label}: this run computes on the CPU, whose memory is "
                    "the main memory, so it would do nothing: leave it out, or run on a card"
                )


def _splits(method: type[Method]) -> bool:
    """Whether a class says for itself that it works on split weights (`Method.splits`)."""
    return bool(vars(method).get("splits", False))


def _that_split() -> Iterator[str]:
    return (name for name, method in _shipped() if _splits(method))


def _shipped() -> Iterator[tuple[str, type[Method]]]:
    from cl_bench.methods.registry import METHODS, method_class

    return ((name, method_class(name)) for name in METHODS)


def shard_faults(found: Checked) -> Iterator[str]:
    """What cannot be done with split weights, beside what methods say themselves."""
    runs = [run for run in found.runs if any(stage.train.splitting for stage in run.stages)]
    if not runs:
        return
    if found.config.eval.within_stage is not None:
        yield (
            "eval.within_stage: a model whose weights are split (train.shard, offload: [weights]) "
            "is scored after its stages only: give within_stage: null, or leave them out"
        )
    if found.skeleton is None:
        return
    from cl_bench.models.layouts import patterns
    from cl_bench.training.sharding import unsplittable

    if names := unsplittable(found.skeleton):
        yield (
            f"train.shard: {', '.join(patterns(names))} are in layers that are not split over "
            "processes (linear layers and embeddings are): give shard: false and no offload: "
            "[weights]"
        )


def trained_faults(found: Checked) -> Iterator[str]:
    """What methods say of the model when they count what they would train (`Method.trains`).

    A part that it does not have, more layers than there are. LoRA's adapters have a check of their
    own.
    """
    from cl_bench.costs.shapes import shapes_of
    from cl_bench.methods.lora import LoRA

    if found.skeleton is None:
        return
    shapes = shapes_of(found.skeleton)
    for run in {run.label: run for run in found.runs}.values():
        for part in (part for stage in run.stages for part in stage.parts):
            if not issubclass(part.method, LoRA):
                try:
                    part.method(part.options).trains(shapes)
                except UserError as error:
                    yield from (f"methods: {run.label}: {fault}" for fault in error.faults)


def weights_faults(found: Checked) -> Iterator[str]:
    """Files of methods that read the weights of stages, and do not say of which.

    Where `keep:` deletes weights that nothing needs.
    """
    if found.config.keep == "all":
        return
    used = ((r.label, p.method) for r in found.runs for s in r.stages for p in s.parts)
    for label, method in dict.fromkeys(used):
        if method.__module__.startswith("cl_bench.") or overrides(method, "earlier_weights"):
            continue
        file = inspect.getfile(method)
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or getattr(node.func, "attr", "") != "weights":
                continue
            if [getattr(one, "value", None) for one in node.args] != [0]:
                yield (
                    f"methods: {label}: {file}, line {node.lineno}: reads the weights of stages, "
                    f"which keep: {found.config.keep} deletes: say which in `earlier_weights`, or "
                    "give keep: all"
                )


def _asked(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Uses (not imports) of PEFT's configs, and of names of their types: line, name, reason."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

    reasons = {kind: why for kind in CONFIGS if (why := _reason(kind))}
    configs = {CONFIGS[kind].__name__: why for kind, why in reasons.items()}
    types = {kind.value: why for kind, why in reasons.items()}
    nodes = list(ast.walk(tree))
    renamed = {
        alias.asname: alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    for node in nodes:
        if isinstance(node, ast.Name) and (name := renamed.get(node.id, node.id)) in configs:
            yield node.lineno, name, configs[name]
        elif isinstance(node, ast.Attribute) and node.attr in configs:
            yield node.lineno, node.attr, configs[node.attr]
        elif isinstance(node, ast.Attribute) and node.attr in types and _is_type(node.value):
            yield node.lineno, node.attr, types[node.attr]
        for value in _values_of(node, "peft_type"):
            if isinstance(value, ast.Constant) and value.value in types:
                yield value.lineno, str(value.value), types[str(value.value)]


def _values_of(node: ast.AST, key: str) -> list[ast.expr]:
    """What a keyword argument or a literal dict gives to `key`."""
    if isinstance(node, ast.keyword):
        return [node.value] if node.arg == key else []
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return [value for name, value in pairs if getattr(name, "value", None) == key]
    return []


def _is_type(node: ast.AST) -> bool:
    return "PeftType" in (getattr(node, "id", ""), getattr(node, "attr", ""))


def _reason(kind: Any) -> str | None:
    """What is wrong with a type of PEFT's adapters; None for one that can be merged."""
    from peft import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    use = "use an adapter of the weights (LoRA, ...)"
    if issubclass(PEFT_TYPE_TO_CONFIG_MAPPING[kind], PromptLearningConfig):
        return (
            "(PEFT's prompt learning) cannot be trained or scored: its virtual tokens move the "
            f"positions of all others, and it cannot be merged into the weights; {use}"
        )
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(kind)
    if tuner is not None and not hasattr(tuner, "merge_and_unload"):
        return f"of PEFT cannot be merged into the weights, as later stages and engines need; {use}"
    return None
