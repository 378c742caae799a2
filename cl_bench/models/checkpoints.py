"""Saving and loading what a stage leaves: a model, or an adapter and the base it belongs to."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.errors import RunError, UserError
from cl_bench.models.bases import BASE, adapter_base, base_contents
from cl_bench.store.file_errors import writing
from cl_bench.store.folders import (
    DELTA,
    portable,
    publish_folder,
    there,
    verify_folder,
    write_json,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Load = Callable[[str | Path, str], tuple[Any, Any]]
    """Gives a model and its tokenizer by path and dtype."""


def save_checkpoint(
    model: Any,
    tokenizer: Any,
    folder: Path,
    base: str,
    ready: Callable[[str], None] | None = None,
    shrink: Callable[[Path], None] | None = None,
) -> None:
    """`write_checkpoint`, and its name; `ready` and `shrink` are those of `publish_folder`."""
    publish_folder(write_checkpoint(model, tokenizer, folder, base), folder, ready, shrink)


def write_checkpoint(
    model: Any,
    tokenizer: Any,
    folder: Path,
    base: str,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write an ordinary Hugging Face folder, or an adapter (PEFT's or ours) and where its base is.

    Beside `folder`, for `publish_folder` to give it that name; returns where. `base` is the
    config's `model.path`, or the folder of an earlier stage's checkpoint; its checksums are kept
    beside its place. `weights`: those to write, where the model's own are split over processes.
    Raises RunError where the disk is full.
    """
    from cl_bench.models.function_adapters import adapter_of, save_function_adapter

    temporary = folder.with_name(f".{folder.name}.tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    if is_adapter(model) and adapter_of(model) is None:
        _sort_sets(model)
    with writing(folder):
        if adapter_of(model) is None:
            given = {} if weights is None else {"state_dict": weights}
            model.save_pretrained(temporary, **given)
        else:
            save_function_adapter(model, temporary)
        tokenizer.save_pretrained(temporary)
    if is_adapter(model):
        write_json(temporary / BASE, {"base": portable(base, folder), **base_contents(base)})
    return temporary


def _sort_sets(model: Any) -> None:
    """Sets in the adapters' configs become sorted lists: PEFT writes them in an order of chance.

    Checksums of equal adapters would differ between processes.
    """
    for config in model.peft_config.values():
        for name, value in vars(config).items():
            if isinstance(value, set):
                setattr(config, name, sorted(value))


def is_adapter(model: Any) -> bool:
    """Whether the model is wrapped by PEFT, or has functions beside its weights."""
    from peft import PeftModel

    from cl_bench.models.function_adapters import adapter_of

    return isinstance(model, PeftModel) or adapter_of(model) is not None


def load_checkpoint(
    folder: Path,
    dtype: str,
    device: torch.device,
    adapters: bool,
    load: Load | None = None,
) -> tuple[Any, Any]:
    """Model and tokenizer of a finished stage, checked against its manifest.

    With `adapters` an adapter stays one (trainable); otherwise it is merged into the weights, and
    one that cannot be merged raises UserError. `load`: of whole models, in place of `load_model`.
    """
    from cl_bench.models.function_adapters import is_function_adapter, load_function_adapter

    verify_folder(folder)
    base = adapter_base(folder)
    if base is None:
        return _load_whole(folder, dtype, device, load)
    from peft import PeftModel

    functions = is_function_adapter(folder)
    if functions and not adapters:
        raise UserError(
            f"{folder}: holds functions beside a model (kan_lora, bottleneck), which cannot be "
            "merged into its weights: only the engines of this process (cl-bench, hf) can score it"
        )
    model, tokenizer = _load_whole(base, dtype, device, load)
    if functions:
        load_function_adapter(model, folder)
        return model, tokenizer
    wrapped: Any = PeftModel.from_pretrained(
        model, folder, is_trainable=adapters, autocast_adapter_dtype=False
    )
    if adapters:
        return wrapped, tokenizer
    merged = wrapped.merge_and_unload()
    return merged.requires_grad_(True), tokenizer


def _load_whole(
    source: str | Path, dtype: str, device: torch.device, load: Load | None
) -> tuple[Any, Any]:
    """A model without adapters: the config's, or a checkpoint of ours, of a delta too."""
    from cl_bench.models.deltas import whole_folder
    from cl_bench.models.load import load_model, resolve_model_path

    load = load or partial(load_model, device=str(device))
    if not (Path(source) / DELTA).is_file():
        return load(resolve_model_path(str(source)), dtype)
    with whole_folder(Path(source)) as whole:
        model, tokenizer = load(whole, dtype)
    # Not the temporary folder, which PEFT would record.
    model.name_or_path = model.config.name_or_path = tokenizer.name_or_path = str(source)
    return model, tokenizer


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, renamed into place; nothing is written for no tensors.

    Raises RunError where the disk is full.
    """
    from safetensors.torch import save_file

    if tensors:
        temporary = path.with_name(f".{path.name}.tmp")
        with writing(path):
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
        temporary.replace(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The file's tensors on the CPU; none if there is no file. Raises RunError if it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path) if there(path) else {}
    except SafetensorError as error:
        raise RunError(f"{path}: unreadable ({error}); restore it from a copy") from error
