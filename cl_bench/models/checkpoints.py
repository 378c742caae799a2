"""Saving and loading what a stage leaves: a model, or an adapter and the base it belongs to."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.errors import RunError, UserError
from cl_bench.models.contents import adapter_bases, changed_files, model_contents, names, same_model
from cl_bench.store.file_errors import writing
from cl_bench.store.folders import (
    MANIFEST,
    located,
    portable,
    publish_folder,
    read_json,
    sha256_file,
    there,
    train_again,
    verify_folder,
    write_json,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BASE = "base.json"


def save_checkpoint(
    model: Any,
    tokenizer: Any,
    folder: Path,
    base: str,
    ready: Callable[[str], None] | None = None,
) -> None:
    """`write_checkpoint`, and its name. `ready` is called with the manifest's checksum before."""
    publish_folder(write_checkpoint(model, tokenizer, folder, base), folder, ready)


def write_checkpoint(model: Any, tokenizer: Any, folder: Path, base: str) -> Path:
    """Write an ordinary Hugging Face folder, or an adapter (PEFT's or ours) and where its base is.

    Beside `folder`, for `publish_folder` to give it that name; returns where. `base` is the
    config's `model.path`, or the folder of an earlier stage's checkpoint; its checksums are kept
    beside its place. Raises RunError where the disk is full.
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
            model.save_pretrained(temporary)
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


def base_contents(base: str) -> dict[str, Any]:
    """What identifies an adapter's base: `files` or `commit` of a model, or of a checkpoint of ours
    its `fingerprint`, the checksum of its manifest."""
    manifest = Path(base) / MANIFEST
    if manifest.is_file():
        return {"fingerprint": sha256_file(manifest)}
    return model_contents(base)


def adapter_base(folder: Path) -> str | None:
    """What the adapter in `folder` belongs to; None if the folder holds a whole model.

    The base is looked for where it was, and where the experiment has its model now; the first that
    has the recorded checksums is taken. Raises UserError when none has.
    """
    record = _base_record(folder)
    if record is None:
        return None
    recorded = located(record["base"], folder)
    places = list(dict.fromkeys(adapter_bases(folder, recorded)))
    if not record.keys() - {"base"} and not Path(recorded).is_absolute():
        # An older version, which wrote some paths as they were: the folder that the experiment
        # has under that name, not one of the current folder.
        end = Path(recorded).parts
        places.sort(key=lambda place: not _ends_with(Path(place), end))
    faults = []
    if recorded not in places:
        faults.append(f"{recorded} is neither in the experiment's folder nor its model.path")
    for place in places:
        fault = _base_fault(place, record)
        if fault is None:
            return place
        faults.append(fault)
    raise UserError(
        f"{folder}: the model that this adapter was trained on is not there: {'; '.join(faults)}. "
        "Put it back, or give its new place as model.path: of the config and run that again"
    )


def recorded_base(folder: Path) -> Path | None:
    """Where the base of the adapter in `folder` was, there or not; None for a whole model."""
    record = _base_record(folder)
    return None if record is None else Path(located(record["base"], folder))


def _base_record(folder: Path) -> dict[str, Any] | None:
    """What an adapter's checkpoint says of its base; raises RunError when that is damaged."""
    file, remedy = folder / BASE, train_again(folder)
    if not there(file):
        return None
    record = read_json(file, remedy)
    if not isinstance(record, dict) or not isinstance(record.get("base"), str):
        raise RunError(f"{file}: does not say what the adapter belongs to; {remedy}")
    return record


def _ends_with(folder: Path, end: tuple[str, ...]) -> bool:
    return folder.is_absolute() and folder.is_dir() and folder.parts[-len(end) :] == end


def _base_fault(place: str, record: Mapping[str, Any]) -> str | None:
    """Why the model at `place` is not the one of the record, or None; older records have a name."""
    if Path(place).is_absolute() and not Path(place).is_dir():
        return f"{place} does not exist"
    found = base_contents(place)
    if "fingerprint" in record:
        same = found.get("fingerprint") == record["fingerprint"]
        return None if same else f"{place} is not that checkpoint ({MANIFEST} differs)"
    if same_model(record, found) is False:
        return f"{place} has other weights ({names(changed_files(record, found))})"
    return None


def load_checkpoint(
    folder: Path, dtype: str, device: torch.device, adapters: bool
) -> tuple[Any, Any]:
    """Model and tokenizer of a finished stage, checked against its manifest.

    With `adapters` an adapter stays one (trainable); otherwise it is merged into the weights, and
    one that cannot be merged raises UserError.
    """
    from cl_bench.models.function_adapters import is_function_adapter, load_function_adapter
    from cl_bench.models.load import load_model, resolve_model_path

    verify_folder(folder)
    base = adapter_base(folder)
    if base is None:
        return load_model(folder, dtype, str(device))
    from peft import PeftModel

    functions = is_function_adapter(folder)
    if functions and not adapters:
        raise UserError(
            f"{folder}: holds functions beside a model (kan_lora, bottleneck), which cannot be "
            "merged into its weights: only the engines of this process (cl-bench, hf) can score it"
        )
    model, tokenizer = load_model(resolve_model_path(base), dtype, str(device))
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
