"""From the config's `model.path` to a model and its tokenizer, on any device."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from cl_bench.config.dtypes import Dtype
from cl_bench.config.schema import QUICKSTART_MODEL
from cl_bench.errors import RunError, UserError, missing_dependency, nearest
from cl_bench.models.kinds import kind_fault
from cl_bench.models.quickstart import quickstart_model
from cl_bench.resources import expanded
from cl_bench.store.folders import DELTA

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FUNCTION_ADAPTER = "function_adapter.json"
"""In a checkpoint of functions beside a model (function_adapters.py): what they are."""
DTYPES = get_args(Dtype)
_HARMLESS = re.compile(
    r"rotary_emb\.inv_freq$|(attn|attention|self_attn)\.(bias|masked_bias)$|\.position_ids$"
)
"""Buffers that old checkpoints hold and that the model computes itself: frequencies and masks."""
JSON_FILES = (
    *("config.json", "generation_config.json"),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
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
    local = expanded(path)
    return local if local.is_dir() else path


def model_path_fault(path: str) -> str | None:
    """What is wrong with `model.path` as far as the name alone tells, or None; fetches nothing."""
    local = expanded(path)
    name, revision = split_revision(path)
    if revision and (name == QUICKSTART_MODEL or expanded(name).is_dir()):
        return f"model.revision: '{revision}' of '{name}': only models of the hub have revisions"
    if not path.strip():
        return "model.path: empty; name a folder, a hub model (owner/name) or smollm2-135m"
    if (local / "adapter_config.json").is_file():
        return (
            f"model.path: '{path}' is a PEFT adapter, not a whole model: merge it into its base "
            "(merge_and_unload, then save_pretrained) and name that folder"
        )
    if (local / DELTA).is_file():
        return (
            f"model.path: '{path}' stores only what differs from another model (delta.json): write "
            "the whole model with `cl-bench export`, and name that folder"
        )
    if (local / FUNCTION_ADAPTER).is_file():
        return (
            f"model.path: '{path}' holds functions beside a model (kan_lora, bottleneck), which "
            "cannot be merged into its weights: no model of transformers has them"
        )
    if path == QUICKSTART_MODEL or (local / "config.json").is_file():
        return None
    if local.is_dir():
        return f"model.path: the folder '{path}' has no config.json: not a Hugging Face model"
    if local.exists():
        return f"model.path: '{path}' is a file; a Hugging Face model is a folder with config.json"
    if _HUB_ID.fullmatch(path):
        return None
    return f"model.path: there is no folder '{path}'{_suggestion(path, local)}"


def file_faults(path: str) -> list[str]:
    """The JSON files of a model's folder that are none: some would be passed over in silence."""
    folder, faults = expanded(path), []
    for name in JSON_FILES:
        file = folder / name
        try:
            data = json.loads(file.read_bytes()) if file.is_file() else {}
        except (OSError, ValueError, RecursionError) as error:
            faults.append(f"model.path: {file}: not JSON that can be read ({error})")
            continue
        if not isinstance(data, dict):
            faults.append(f"model.path: {file}: not a JSON object")
        elif data and name.endswith(".index.json") and (fault := shard_fault(data)):
            faults.append(f"model.path: {file}: {fault}")
    return faults


def shard_fault(index: Mapping[str, Any]) -> str | None:
    """What is wrong with an index of several weight files: each is a file beside it."""
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
        return "weight_map: not the names of files by tensor"
    away = [shard for shard in shards.values() if Path(shard).name != shard]
    return f"weight_map: {away[0]!r} is not beside it" if away else None


def split_revision(path: str) -> tuple[str, str | None]:
    """(`owner/name`, revision) of `owner/name@revision`; (path, None) of anything else."""
    if expanded(path).exists():
        return path, None
    name, _, revision = path.partition("@")
    return name, revision or None


def _suggestion(path: str, local: Path) -> str:
    """The nearest folder beside the missing one, or the forms that are accepted."""
    if "/" not in path:
        return f"{nearest(path, [QUICKSTART_MODEL])}; a model of the hub is written owner/name"
    siblings = [p.name for p in local.parent.glob("*/")] if local.parent.is_dir() else []
    return nearest(local.name, siblings)


@contextmanager
def still_there() -> Iterator[None]:
    """In the middle of a run a model that cannot be loaded was there at the start: a RunError."""
    try:
        yield
    except UserError as error:
        raise RunError(
            f"{str(error).rstrip('.')}; it was there when the run began: put it back and run the "
            "same command again to go on; what is complete is kept"
        ) from error


def load_model(
    path: str | Path, dtype: str = "bfloat16", device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model at `path`, all weights in `dtype` on `device`, and its tokenizer.

    `path` is a folder, `owner/name` or `owner/name@revision`.

    The tokenizer has a padding token that the model knows (else its EOS). Sampling settings that
    the model's authors ship (temperature, top_p, ...) are cleared: scoring is greedy, and they
    would only raise warnings. A repetition penalty stays, as in lm-eval. Raises UserError when the
    model cannot be had: unreachable, not a causal language model, damaged, weights that are
    missing or that no layer takes, an unknown dtype, an unavailable device, no EOS token.
    """
    if dtype not in DTYPES:
        raise UserError(f"model.dtype: unknown dtype '{dtype}'{nearest(dtype, DTYPES)}")
    target = usable_device(device)
    tokenizer = load_tokenizer(path)
    # Read straight to an accelerator: main memory never has more than a few tensors of it.
    there = {} if target.type == "cpu" else {"device_map": {"": target}}
    model, faults = _loaded(path, dtype, **there)
    completed(model, tokenizer, faults)
    return model, tokenizer


def completed(model: Any, tokenizer: Any, faults: Sequence[str]) -> None:
    """Make a loaded model and its tokenizer what `load_model` gives. Raises UserError for faults.

    The model may be without weights yet.
    """
    from cl_bench.models.layouts import fused_experts
    from cl_bench.models.positions import forget_lengths

    if faults := [*faults, *special_token_faults(tokenizer, embedding_rows(model))]:
        raise UserError(faults)
    pad_within(tokenizer, embedding_rows(model))
    _make_greedy(model)
    if str(model.dtype) == "torch.float64" and any(map(fused_experts, model.modules())):
        model.set_experts_implementation("eager")  # torch's grouped products know no float64
    forget_lengths(model)


def load_skeleton(
    path: str | Path, weights: bool = True, dtype: str = "bfloat16"
) -> tuple[PreTrainedModel, list[str]]:
    """The model on the meta device, and what is wrong with the weights in its files, in a moment.

    Only names and shapes are read from the files; without `weights`, config.json alone, in its own
    dtype. Raises UserError as `load_model` does.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if weights:
        return _loaded(path, dtype, device_map="meta")
    name, revision = split_revision(str(path))
    if fault := kind_fault(config_values(path), str(path)):
        raise UserError(fault)
    with _loading(path), torch.device("meta"):
        config = AutoConfig.from_pretrained(name, revision=revision)
        return AutoModelForCausalLM.from_config(config), []


def _loaded(path: str | Path, dtype: str, **options: Any) -> tuple[PreTrainedModel, list[str]]:
    """The model, and a fault for each way in which its files do not fit it."""
    import torch
    from transformers import AutoModelForCausalLM

    name, revision = split_revision(str(path))
    if fault := kind_fault(config_values(path), str(path)):
        raise UserError(fault)
    with _loading(path), _without_progress_bars():
        model, found = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            # A shape that differs is reported by name with the rest; nothing goes on with it.
            ignore_mismatched_sizes=True,
            **options,
        )
    vars(model).pop("hf_device_map", None)  # the model is in one place, as any other
    return model, weight_faults(found, str(path))


def weight_faults(found: Mapping[str, Any], path: str) -> list[str]:
    """What transformers' loading info says of weights that are not there or not used."""
    unused = [key for key in found["unexpected_keys"] if not _HARMLESS.search(key)]
    shapes = [
        f"{key} (file {list(there)}, model {list(wanted)})"
        for key, there, wanted in found["mismatched_keys"]
    ]
    parts = [
        ("lack weights that would be random", sorted(found["missing_keys"])),
        ("hold weights that no layer of the model takes", sorted(unused)),
        ("hold weights of another shape than config.json says", sorted(shapes)),
        ("cannot be read", sorted(found.get("error_msgs", ()))),
    ]
    return [
        f"model.path: the files of '{path}' {what}: {_some(names)}"
        for what, names in parts
        if names
    ]


def _some(names: Sequence[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def config_values(path: str | Path) -> dict[str, Any]:
    """The values of the model's config.json. Raises UserError when it cannot be had."""
    from transformers import PreTrainedConfig

    name, revision = split_revision(str(path))
    with _loading(path):
        values, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    return dict(values)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token. Raises UserError as `load_model` does."""
    from transformers import AutoTokenizer

    name, revision = split_revision(str(path))
    with _loading(path, "the tokenizer of "), _without_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise UserError(f"model.path: the tokenizer of '{path}' has no EOS token to end answers")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def embedding_rows(model: Any) -> int:
    """How many token ids the model knows."""
    return int(model.get_input_embeddings().weight.shape[0])


def special_token_faults(tokenizer: Any, rows: int) -> list[str]:
    """BOS and EOS that the model has no embedding of."""
    return [
        f"model.path: the tokenizer's {name} token {token!r} has id {token_id}, but the model has "
        f"embeddings of ids below {rows} only"
        for name, token, token_id in (
            ("BOS", tokenizer.bos_token, tokenizer.bos_token_id),
            ("EOS", tokenizer.eos_token, tokenizer.eos_token_id),
        )
        if token_id is not None and token_id >= rows
    ]


def pad_within(tokenizer: Any, rows: int) -> str | None:
    """Let EOS pad where the model has no embedding of the padding token; says so."""
    token, token_id = tokenizer.pad_token, tokenizer.pad_token_id
    if token_id is None or token_id < rows:
        return None
    tokenizer.pad_token = tokenizer.eos_token
    return (
        f"the tokenizer's padding token {token!r} (id {token_id}) has no embedding in the model "
        f"(ids below {rows}): EOS pads instead, which no position attends to"
    )


@contextmanager
def _loading(path: str | Path, part: str = "") -> Iterator[None]:
    """Turns whatever transformers raises for a model that cannot be had into one line."""
    from pickle import UnpicklingError

    try:
        yield
    except ImportError as error:  # a tokenizer that needs sentencepiece, tiktoken, ...
        if error.name is None:
            raise UserError(f"model.path: cannot load '{path}': {_first_line(error)}") from error
        raise missing_dependency(f"model.path: '{path}'", error.name) from error
    except UnpicklingError as error:
        raise UserError(
            f"model.path: '{path}': its .bin weights hold more than tensors, which could run code: "
            "they are not read; save the model as safetensors where you trust it"
        ) from error
    except UserError:
        raise
    except Exception as error:  # each class of transformers has errors of its own
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model.path: '{path}' needs code that comes with it (auto_map), and cl-bench runs "
                "only the model and tokenizer classes of transformers"
            ) from error
        local = Path(path).is_dir()
        hint, part = ("", part) if local else (" (neither a local folder nor had from the hub)", "")
        known = isinstance(error, OSError | ValueError | RuntimeError)
        what = _first_line(error) if known else f"{type(error).__name__}: {_first_line(error)}"
        raise UserError(f"model.path: cannot load {part}'{path}'{hint}: {what}") from error


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


def usable_device(name: str | None) -> Any:
    """The device of that name; None: the first GPU, or the CPU. Raises UserError for any other."""
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # torch's three ways to say that it was built without this device, or that none is here.
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
    """The first line of a message, and the next where the first one announces it."""
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {rest[0].strip()}" if first.endswith(":") and rest else first
