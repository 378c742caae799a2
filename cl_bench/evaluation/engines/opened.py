"""The lm-evaluation-harness `LM` of an engine, over a model in memory or a checkpoint folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from cl_bench.device_memory import free_memory
from cl_bench.errors import nearest
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.kept import Kept, vllm_defaults
from cl_bench.evaluation.shared_prefix.lm import Progress, SharedPrefixLM

HF_DEFAULTS: Mapping[str, Any] = {"batch_size": 16, "softmax_dtype": "float32"}
"""Of `hf`, in memory and in a subprocess, unless its arguments say otherwise."""
OF_LOADING = (
    *("dtype", "device", "trust_remote_code", "use_fast_tokenizer"),
    *("parallelize", "max_memory_per_gpu", "max_cpu_memory", "offload_folder", "tp_plan"),
    *("autogptq", "gptqmodel"),
)
"""Arguments that `HFLM` does not look at when it is given a model."""


@dataclass(frozen=True)
class Subject:
    """The model that is scored."""

    model: Any
    tokenizer: Any
    folder: Path | None = None
    """Where the same weights are saved (a model, or a checkpoint of ours)."""


@contextmanager
def opened(
    engine: Engine,
    subject: Subject,
    progress: Progress | None = None,
    kept: Kept | None = None,
    say: Callable[[str], None] | None = None,
) -> Iterator[Any]:
    """The `LM`; its attribute `encode_prompts` says how prompts of generations are cut.

    An engine in a subprocess loads `subject.folder` (an adapter is merged for it), and the model in
    memory makes room on its accelerator meanwhile. Its process is taken from `kept`, and left there
    for the next; without it, it ends. Raises RunError when the subprocess fails.
    """
    model, tokenizer = subject.model, subject.tokenizer
    if engine.name == "cl-bench":
        yield SharedPrefixLM(model, tokenizer, progress=progress, **engine.arguments)
    elif engine.in_memory:
        from cl_bench.evaluation.engines.hflm import TruncatingHFLM  # a second, for this engine

        options = {**HF_DEFAULTS, **engine.arguments}
        yield TruncatingHFLM(pretrained=model, tokenizer=tokenizer, **options)
    else:
        with ExitStack() as stack:
            folder = stack.enter_context(_whole_model(subject))
            defaults: dict[str, Any] = {"dtype": str(model.dtype).removeprefix("torch.")}
            if engine.name == "hf":
                # Its own default is cuda, there or not.
                defaults |= {**HF_DEFAULTS, "device": str(model.device)}
            device = model.device.type
            defaults |= vllm_defaults(engine, device)
            stack.enter_context(_parked(model))
            processes = stack.enter_context(Kept()) if kept is None else kept
            serving = processes.serving(
                engine, folder, model, tokenizer, device, defaults, progress, say
            )
            yield stack.enter_context(serving)


def engine_faults(engine: Engine) -> list[str]:
    """Arguments that `hf` cannot heed with the model in memory.

    In a subprocess it hands those that it does not know to `from_pretrained`.
    """
    if engine.name != "hf" or not engine.in_memory:
        return []
    from lm_eval.models.huggingface import HFLM

    known = [name for name in signature(HFLM.__init__).parameters if name not in ("self", "kwargs")]
    faults = []
    for key in engine.arguments:
        if key in OF_LOADING:
            faults.append(
                f"--engine-args {key}: says how a checkpoint is loaded, and `hf` answers with the "
                "model in memory; add subprocess=true or leave it out"
            )
        elif key not in known:
            faults.append(f"--engine-args {key}: unknown{nearest(key, known)}")
    return faults


@contextmanager
def _whole_model(subject: Subject) -> Iterator[Path]:
    """A folder with all weights: the subject's own, or for an adapter a temporary one."""
    from cl_bench.models.bases import adapter_base
    from cl_bench.models.checkpoints import load_checkpoint
    from cl_bench.models.deltas import whole_folder

    if subject.folder is None:
        raise ValueError("an engine in a subprocess needs the folder of a saved model")
    if adapter_base(subject.folder) is None:
        with whole_folder(subject.folder) as whole:
            yield whole
        return
    import torch

    dtype = str(subject.model.dtype).removeprefix("torch.")
    merged, tokenizer = load_checkpoint(subject.folder, dtype, torch.device("cpu"), adapters=False)
    with tempfile.TemporaryDirectory(prefix="cl-bench-") as folder:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del merged
        yield Path(folder)


def scored_form(model: Any, engine: Engine) -> dict[str, str]:
    """Of a model with an adapter: whether it was scored as such, or merged (which rounds anew)."""
    from cl_bench.models.checkpoints import is_adapter

    if not is_adapter(model):
        return {}
    in_memory = engine.name == "cl-bench" or engine.in_memory
    return {"form": "adapter" if in_memory else "merged"}


@contextmanager
def _parked(model: Any) -> Iterator[None]:
    """While open, a model on an accelerator waits in main memory."""
    device = model.device
    if device.type == "cpu":
        yield
        return
    model.to("cpu")
    free_memory(device)
    try:
        yield
    finally:
        model.to(device)


def halve_passes(lm: Any) -> bool:
    """Have an `LM` of ours use less memory at once; whether it can."""
    halve: Callable[[], bool] | None = getattr(lm, "halve_passes", None)
    return halve is not None and halve()


def requests_of(lm: Any, before: dict[str, int]) -> dict[str, Any]:
    """What was asked since `before` (`counted`): requests, and those that were cut or empty."""
    found: dict[str, Any] = {key: value - before[key] for key, value in counted(lm).items()}
    if found.get("unshared"):
        found["reason"] = lm.reason or "requests that allow no sharing"
    elif "unshared" in found:
        del found["unshared"]
    return found


def counted(lm: Any) -> dict[str, int]:
    """The counters of an `LM` of ours, so far."""
    names: Sequence[str] = ("requests", "truncated", "empty", "unshared")
    return {name: getattr(lm.counters, name) for name in names if hasattr(lm.counters, name)}
