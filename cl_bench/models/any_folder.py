"""Any model: a hub id, a folder of transformers, an adapter, what a stage left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.errors import UserError
from cl_bench.models.bases import BASE, adapter_base
from cl_bench.models.contents import checksum, model_contents
from cl_bench.models.load import FUNCTION_ADAPTER, file_faults, model_path_fault
from cl_bench.resources import expanded
from cl_bench.store.folders import DELTA, MANIFEST, sha256_file

if TYPE_CHECKING:
    import torch

PEFT_ADAPTER = "adapter_config.json"
TOKENIZER = "tokenizer_config.json"
OURS = (BASE, DELTA, FUNCTION_ADAPTER)
"""Files of a checkpoint that no other program loads."""


def any_model_faults(given: str, in_memory: bool) -> list[str]:
    """Why there is no model, as far as names of files tell; none if there may be one.

    `in_memory`: whether this process answers with it, or another that loads whole weights.
    """
    folder = expanded(given)
    if any((folder / name).is_file() for name in OURS):
        return []
    if (folder / PEFT_ADAPTER).is_file():
        found = [] if in_memory else [f"{folder}: an adapter: merge it for an engine that loads it"]
        return [*found, *_adapter_faults(folder)]
    fault = model_path_fault(given)
    faults = [fault] if fault else file_faults(given)
    return [f"{given}: {fault.removeprefix('model.path: ')}" for fault in faults]


def _adapter_faults(folder: Path) -> list[str]:
    try:
        base = _peft_base(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{folder / PEFT_ADAPTER}: does not say what the adapter belongs to ({error!r})"]
    fault = model_path_fault(base)
    return [f"{folder}: the adapter's base: {fault.removeprefix('model.path: ')}"] if fault else []


def _peft_base(folder: Path) -> str:
    return str(json.loads((folder / PEFT_ADAPTER).read_text())["base_model_name_or_path"])


def any_contents(given: str) -> dict[str, Any]:
    """What identifies it: as `model_contents`, of an adapter with those of what it belongs to."""
    folder = expanded(given)
    if (folder / MANIFEST).is_file():
        return {"fingerprint": sha256_file(folder / MANIFEST)}
    if not (folder / PEFT_ADAPTER).is_file():
        return model_contents(given)
    files = {
        file.name: checksum(file) for file in sorted(folder.glob("adapter*")) if file.is_file()
    }
    return {"files": files, "base": model_contents(_peft_base(folder))}


def any_tokenizer(given: str) -> Any:
    """Its tokenizer, of an adapter that has none that of its base."""
    from cl_bench.models.load import load_tokenizer, resolve_model_path

    folder = expanded(given)
    if (folder / TOKENIZER).is_file():
        return load_tokenizer(folder)
    if (folder / PEFT_ADAPTER).is_file():
        given = adapter_base(folder) or _peft_base(folder)
    return load_tokenizer(resolve_model_path(given))


def any_model(given: str, dtype: str, device: torch.device) -> tuple[Any, Any, Path | None]:
    """Model, tokenizer, and the folder with the same weights (None: one that was put together)."""
    from cl_bench.models.checkpoints import load_checkpoint
    from cl_bench.models.load import load_model, resolve_model_path

    folder = expanded(given)
    if any((folder / name).is_file() for name in OURS):
        return *load_checkpoint(folder, dtype, device, adapters=True), folder
    if not (folder / PEFT_ADAPTER).is_file():
        path = resolve_model_path(given)
        return *load_model(path, dtype, str(device)), Path(path)
    from peft import PeftModel

    model, tokenizer = load_model(resolve_model_path(_peft_base(folder)), dtype, str(device))
    try:
        adapted: Any = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False)
    except (ValueError, RuntimeError, KeyError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{folder}: its adapter does not fit its base ({what})") from error
    return adapted, tokenizer, None
