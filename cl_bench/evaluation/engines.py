"""The lm-evaluation-harness `LM` of an engine, over a model in memory or a checkpoint folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM

from cl_bench.errors import UserError, nearest
from cl_bench.evaluation.choice import Engine
from cl_bench.evaluation.engine import Progress, SharedPrefixLM
from cl_bench.evaluation.hflm import TruncatingHFLM
from cl_bench.evaluation.remote import RemoteLM

BATCH = 16
"""Batch size of `hf` in memory unless its arguments say another."""


@dataclass(frozen=True)
class Subject:
    """The model that is scored."""

    model: Any
    tokenizer: Any
    folder: Path | None = None
    """Where the same weights are saved (a model, or a checkpoint of ours)."""


@contextmanager
def opened(engine: Engine, subject: Subject, progress: Progress | None = None) -> Iterator[Any]:
    """The `LM`; its attribute `encode_prompts` says how prompts of generations are cut.

    An engine in a subprocess loads `subject.folder` (an adapter is merged for it), and the model in
    memory makes room on its accelerator meanwhile. Raises UserError for arguments that the class
    does not take, RunError when the subprocess fails.
    """
    model, tokenizer = subject.model, subject.tokenizer
    if engine.name == "cl-bench":
        yield SharedPrefixLM(model, tokenizer, progress=progress, **engine.arguments)
    elif engine.in_memory:
        yield _hflm(engine, model, tokenizer)
    else:
        with ExitStack() as stack:
            folder = stack.enter_context(_whole_model(subject))
            defaults = {"dtype": str(model.dtype).removeprefix("torch.")}
            if engine.name == "hf":
                defaults["device"] = str(model.device)  # its own default is cuda, there or not
            stack.enter_context(_parked(model))
            log = stack.enter_context(tempfile.TemporaryFile())
            lm = RemoteLM(engine, folder, defaults, tokenizer, log, progress)
            stack.callback(lm.close)
            yield lm


def _hflm(engine: Engine, model: Any, tokenizer: Any) -> TruncatingHFLM:
    known = [name for name in signature(HFLM.__init__).parameters if name not in ("self", "kwargs")]
    if faults := [
        f"--engine-args {key}: unknown{nearest(key, known)}"
        for key in engine.arguments
        if key not in known
    ]:
        raise UserError(faults)
    options = {"batch_size": BATCH, "softmax_dtype": "float32", **engine.arguments}
    return TruncatingHFLM(pretrained=model, tokenizer=tokenizer, **options)


@contextmanager
def _whole_model(subject: Subject) -> Iterator[Path]:
    """A folder with all weights: the subject's own, or for an adapter a temporary one."""
    from cl_bench.checkpoints import adapter_base, load_checkpoint

    if subject.folder is None:
        raise ValueError("an engine in a subprocess needs the folder of a saved model")
    if adapter_base(subject.folder) is None:
        yield subject.folder
        return
    import torch

    dtype = str(subject.model.dtype).removeprefix("torch.")
    merged, tokenizer = load_checkpoint(subject.folder, dtype, torch.device("cpu"), adapters=False)
    with tempfile.TemporaryDirectory(prefix="cl-bench-") as folder:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del merged
        yield Path(folder)


@contextmanager
def _parked(model: Any) -> Iterator[None]:
    """While open, a model on an accelerator waits in main memory."""
    device = model.device
    if device.type == "cpu":
        yield
        return
    import torch

    model.to("cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        model.to(device)


def requests_of(lm: Any, before: dict[str, int]) -> dict[str, Any]:
    """What was asked since `before` (`counted`): requests, and those that were cut or empty.

    Of an engine in a subprocess only the cuts made here are known.
    """
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
