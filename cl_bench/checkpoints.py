"""Saving and loading what a stage leaves: a model, or an adapter and the base it belongs to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.store import (
    located,
    portable,
    publish_folder,
    read_json,
    verify_folder,
    write_json,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BASE = "base.json"


def save_checkpoint(model: Any, tokenizer: Any, folder: Path, base: str) -> None:
    """Write an ordinary Hugging Face folder, or a PEFT adapter and where its base is, atomically.

    `base` is the config's `model.path`, or the folder of an earlier stage's checkpoint.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    if is_adapter(model):
        write_json(temporary / BASE, {"base": portable(base, folder)})
    publish_folder(temporary, folder)


def is_adapter(model: Any) -> bool:
    """Whether the model is wrapped by PEFT."""
    from peft import PeftModel

    return isinstance(model, PeftModel)


def adapter_base(folder: Path) -> str | None:
    """What the adapter in `folder` belongs to; None if the folder holds a whole model."""
    if not (folder / BASE).is_file():
        return None
    return located(read_json(folder / BASE)["base"], folder)


def load_checkpoint(
    folder: Path, dtype: str, device: torch.device, adapters: bool
) -> tuple[Any, Any]:
    """Model and tokenizer of a finished stage, checked against its manifest.

    With `adapters` an adapter stays one (trainable); otherwise it is merged into the weights.
    """
    from cl_bench.models import load_model, resolve_model_path

    verify_folder(folder)
    base = adapter_base(folder)
    if base is None:
        return load_model(folder, dtype, str(device))
    from peft import PeftModel

    model, tokenizer = load_model(resolve_model_path(base), dtype, str(device))
    wrapped: Any = PeftModel.from_pretrained(
        model, folder, is_trainable=adapters, autocast_adapter_dtype=False
    )
    if adapters:
        return wrapped, tokenizer
    merged = wrapped.merge_and_unload()
    return merged.requires_grad_(True), tokenizer


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file, renamed into place; nothing is written for no tensors."""
    from safetensors.torch import save_file

    if tensors:
        temporary = path.with_name(f".{path.name}.tmp")
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
        temporary.replace(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The file's tensors on the CPU; none if there is no file."""
    from safetensors.torch import load_file

    return load_file(path) if path.is_file() else {}
