"""Where the base of an adapter, or of a delta, lies: found by its checksums, wherever it has moved.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError, UserError
from cl_bench.models.contents import adapter_bases, changed_files, model_contents, names, same_model
from cl_bench.store.deltas import read_delta
from cl_bench.store.folders import MANIFEST, located, read_json, sha256_file, there, train_again

BASE = "base.json"


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
    remedy = "Put it back, or give its new place as model.path: of the config and run that again"
    return None if record is None else _found(folder, record, "this adapter was trained on", remedy)


def delta_base(folder: Path) -> str | None:
    """The same of a folder that stores a delta: what it is the difference to. None for others."""
    record = read_delta(folder)
    if record is None:
        return None
    known = {"base": record["base"], **record["of"]}
    again = f"Put it back; or {train_again(folder)}"
    return _found(folder, known, "its weights are stored as the difference to", again)


def _found(folder: Path, record: Mapping[str, Any], what: str, remedy: str) -> str:
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
    raise UserError(f"{folder}: the model that {what} is not there: {'; '.join(faults)}. {remedy}")


def recorded_base(folder: Path) -> Path | None:
    """Where the base of the adapter, or of the delta, in `folder` was, there or not.

    None for an ordinary folder.
    """
    record = _base_record(folder) or read_delta(folder)
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
