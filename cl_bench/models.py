"""From the config's `model.path` to a model and its tokenizer, on any device."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.errors import UserError, missing_dependency, nearest
from cl_bench.quickstart import QUICKSTART_MODEL, quickstart_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("bfloat16", "float16", "float32", "float64")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


def resolve_model_path(path: str, progress: Callable[[str], None] = print) -> str | Path:
    """What `model.path` means: the quickstart model, a local folder, or a hub id (`owner/name`).

    A hub id may name a revision, `owner/name@revision` (`ModelConfig.source`). `smollm2-135m` is
    fetched and converted on first use. A folder that exists wins over a hub id of the same
    spelling. What is neither a folder nor `owner/name` raises UserError.
    """
    if path == QUICKSTART_MODEL:
        return quickstart_model(progress)
    fault = model_path_fault(path)
    if fault:
        raise UserError(fault)
    local = Path(path).expanduser()
    return local if local.is_dir() else path


def model_path_fault(path: str) -> str | None:
    """What is wrong with `model.path` as far as the name alone tells, or None; fetches nothing."""
    local = Path(path).expanduser()
    name, revision = split_revision(path)
    if revision and (name == QUICKSTART_MODEL or Path(name).expanduser().is_dir()):
        return f"model.revision: '{revision}' of '{name}': only models of the hub have revisions"
    if not path.strip():
        return "model.path: empty; name a folder, a hub model (owner/name) or smollm2-135m"
    if path == QUICKSTART_MODEL or (local / "config.json").is_file():
        return None
    if local.is_dir():
        return f"model.path: the folder '{path}' has no config.json: not a Hugging Face model"
    if local.exists():
        return f"model.path: '{path}' is a file; a Hugging Face model is a folder with config.json"
    if _HUB_ID.fullmatch(path):
        return None
    return f"model.path: there is no folder '{path}'{_suggestion(path, local)}"


def split_revision(path: str) -> tuple[str, str | None]:
    """(`owner/name`, revision) of `owner/name@revision`; (path, None) of anything else."""
    if Path(path).expanduser().exists():
        return path, None
    name, _, revision = path.partition("@")
    return name, revision or None


def _suggestion(path: str, local: Path) -> str:
    """The nearest folder beside the missing one, or the forms that are accepted."""
    if "/" not in path:
        return f"{nearest(path, [QUICKSTART_MODEL])}; a model of the hub is written owner/name"
    siblings = [p.name for p in local.parent.glob("*/")] if local.parent.is_dir() else []
    return nearest(local.name, siblings)


def load_model(
    path: str | Path, dtype: str = "bfloat16", device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model at `path`, all weights in `dtype` on `device`, and its tokenizer.

    `path` is a folder, `owner/name` or `owner/name@revision`.

    The tokenizer has a padding token (its EOS where it defines none). Sampling settings that the
    model's authors ship (temperature, top_p, ...) are cleared: scoring is greedy, and they would
    only raise warnings. A repetition penalty stays, as in lm-eval. Raises UserError when the
    model cannot be had: unreachable, not a causal language model, damaged, an unknown dtype, an
    unavailable device, no EOS token.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from cl_bench.training.layouts import fused_experts

    if dtype not in DTYPES:
        raise UserError(f"model.dtype: unknown dtype '{dtype}'{nearest(dtype, DTYPES)}")
    target = _device(device)
    tokenizer = load_tokenizer(path)
    name, revision = split_revision(str(path))
    with _loading(path), _without_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, dtype=getattr(torch, dtype)
        )
    _make_greedy(model)
    if dtype == "float64" and any(fused_experts(module) for module in model.modules()):
        model.set_experts_implementation("eager")  # torch's grouped products know no float64
    return model.to(target), tokenizer


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token. Raises UserError as `load_model` does."""
    from transformers import AutoTokenizer

    name, revision = split_revision(str(path))
    with _loading(path), _without_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    if tokenizer.eos_token_id is None:
        raise UserError(f"model.path: the tokenizer of '{path}' has no EOS token to end answers")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def _loading(path: str | Path) -> Iterator[None]:
    """Turns what transformers raises for a model that cannot be had into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except ImportError as error:  # a tokenizer that needs sentencepiece, tiktoken, ...
        package = error.name or _first_line(error)
        raise missing_dependency(f"model.path: '{path}'", package) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        hint = "" if Path(path).is_dir() else " (neither a local folder nor had from the hub)"
        message = f"model.path: cannot load '{path}'{hint}: {_first_line(error)}"
        raise UserError(message) from error


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = _first_line(error)
        raise UserError(f"device: '{name}' cannot be used on this machine: {reason}") from error
    return device


def _make_greedy(model: PreTrainedModel) -> None:
    settings = model.generation_config
    if settings is None:
        return
    settings.do_sample = False
    for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
        if getattr(settings, name, None) is not None:
            setattr(settings, name, None)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
