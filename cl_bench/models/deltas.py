"""Weights stored as their difference to another model's, and the whole files made again from it.

A tensor is the other model's tensor of its name, in its own dtype, with some bits replaced
(`differences.py`). Where layers were added and names have moved, it is the one with the same bits.
The file that is made again has every byte of the one that was saved, which its checksum in
`manifest.json` shows.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cl_bench.errors import RunError, UserError
from cl_bench.models.bases import BASE, base_contents, delta_base
from cl_bench.models.contents import model_folder
from cl_bench.models.differences import Difference, applied, difference, words
from cl_bench.store.deltas import read_delta, write_delta
from cl_bench.store.file_errors import writing
from cl_bench.store.folders import (
    DELTA,
    MANIFEST,
    delta_place,
    portable,
    read_json,
    read_manifest,
    train_again,
    verify_folder,
)
from cl_bench.store.seals import file_record

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
WORTH_IT = 0.9
"""A delta that takes a larger part of its file is not worth to depend on another folder for."""
_HEADER, _TENSOR = "header", "tensor/"
_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}


class StoredTensors:
    """The tensors of a model's folder by name, from safetensors as they are or from deltas.

    On the CPU, in the dtype that they are stored in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._record = (read_delta(folder) or {}).get("weights", {})
        self._files = _files(folder, set(self._record))
        self._deltas = {
            name: (file, entry)
            for file, kept in self._record.items()
            for name, entry in kept["tensors"].items()
        }
        self._headers: dict[str, bytes] = {}

    @property
    def names(self) -> list[str]:
        """Of all tensors; none where the folder has no safetensors."""
        return sorted({*self._files, *self._deltas})

    @property
    def files(self) -> dict[str, Path]:
        """In which file a tensor is as it is, by name: those that are no deltas."""
        return self._files

    def get(self, name: str) -> Tensor:
        """Read, or made again. Raises RunError where it is not the one that was stored."""
        if name in self._files:
            with safe_open(self._files[name], framework="pt") as whole:
                return whole.get_tensor(name)  # type: ignore[no-any-return]
        file, entry = self._deltas[name]
        found = self.header(file)[name]
        dtype, shape = _DTYPES[found["dtype"]], torch.Size(found["shape"])
        old = None if entry["form"] == "whole" else self._old(entry.get("from", name), shape, dtype)
        try:
            with safe_open(delta_place(self.folder / file), framework="pt") as stored:
                key = _TENSOR + name
                same = entry["form"] == "same"
                packed = torch.empty(0, dtype=torch.uint8) if same else stored.get_tensor(key)
            made = applied(Difference(entry["form"], entry["count"], packed), old, shape, dtype)
        except (SafetensorError, ValueError, RuntimeError, IndexError) as error:
            raise RunError(f"{self._damaged(file, name)} ({error})") from error
        if _checksum(made) != entry["sha256"]:
            raise RunError(self._damaged(file, name))
        return made

    def header(self, file: str) -> dict[str, Any]:
        """What the header of a whole file says of its tensors, in the order of their bytes."""
        try:
            data = json.loads(self.header_bytes(file)[8:])
            data.pop("__metadata__", None)
        except (ValueError, AttributeError, SafetensorError) as error:
            raise RunError(f"{self._damaged(file, 'its header')} ({error})") from error
        return dict(sorted(data.items(), key=lambda item: tuple(item[1]["data_offsets"])))

    def header_bytes(self, file: str) -> bytes:
        """The beginning of a file that is stored as a delta: the header and its length."""
        if file not in self._headers:
            with safe_open(delta_place(self.folder / file), framework="pt") as stored:
                self._headers[file] = bytes(stored.get_tensor(_HEADER).numpy())
        return self._headers[file]

    def same_bits(self) -> dict[str, str]:
        """Names by the checksums of their tensors."""
        return {_checksum(self.get(name)): name for name in reversed(self.names)}

    def _old(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
        return self._origin.like(name, shape, dtype)

    def like(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
        """A tensor to compare with, in that dtype; None where there is none of that shape."""
        if name not in self._files and name not in self._deltas:
            return None
        found = self.get(name)
        return found.to(dtype) if found.shape == shape else None

    @cached_property
    def _origin(self) -> StoredTensors:
        base = delta_base(self.folder)
        place = None if base is None else model_folder(base)[0]
        if place is None:
            raise UserError(f"{self.folder}: the model that it is a difference to, {base}, is gone")
        return StoredTensors(place)

    def _damaged(self, file: str, name: str) -> str:
        return (
            f"{self.folder / file}: {name} is not as it was saved: {delta_place(Path(file)).name} "
            f"or the model that it is the difference to is damaged; {train_again(self.folder)}"
        )


def shrinking(base: str, final: Path) -> Callable[[Path], None]:
    """For `publish_folder`: what stores the weights of a new folder as the difference to `base`.

    `base`: a model, or a folder that holds a whole model of ours, as deltas too; `final`: the name
    that the folder will have. Files that would not get smaller by a tenth stay whole, and so does
    everything where `base` has no safetensors on this machine.
    """

    def shrink(folder: Path) -> None:
        place = model_folder(base)[0]
        origin = StoredTensors(place) if place is not None else None
        files = sorted({path.name for path in _files(folder, set()).values()})
        if origin is None or not origin.names or not files:
            return
        moved = {name for f in files for name in _header_of(folder / f)} != set(origin.names)
        others = origin.same_bits() if moved else {}
        kept = {f: found for f in files if (found := _shrunk(folder / f, origin, others))}
        if kept:
            of = base_contents(base)
            write_delta(folder, {"base": portable(base, final), "of": of, "weights": kept})

    return shrink


def _shrunk(file: Path, origin: StoredTensors, others: dict[str, str]) -> dict[str, Any] | None:
    """Put a delta in place of a file, and what is to be known of it; None where it stays."""
    with file.open("rb") as begin:
        length = begin.read(8)
        header = length + begin.read(int.from_bytes(length, "little"))
    if any(one["dtype"] not in _DTYPES for one in _header_of(file).values()):
        return None
    tensors = {_HEADER: torch.frombuffer(bytearray(header), dtype=torch.uint8)}
    entries: dict[str, dict[str, Any]] = {}
    with safe_open(file, framework="pt") as whole:
        for name in whole.keys():  # noqa: SIM118
            new = whole.get_tensor(name)
            checksum = _checksum(new)
            source = others.get(checksum, name)
            found = difference(new, origin.like(source, new.shape, new.dtype))
            entries[name] = {"form": found.form, "count": found.count, "sha256": checksum}
            if source != name:
                entries[name]["from"] = source
            if found.form != "same":
                tensors[_TENSOR + name] = found.packed
    place = delta_place(file)
    if sum(one.numel() for one in tensors.values()) > WORTH_IT * file.stat().st_size:
        return None
    with writing(place):
        save_file(tensors, place)
    file.unlink()
    return {"stored": file_record(place), "tensors": entries}


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder with whole files of weights: itself, or of deltas one in the system's temporary
    folder while this is open. Raises RunError where they are not those that were saved.
    """
    if read_delta(folder) is None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cl-bench-", ignore_cleanup_errors=True) as temporary:
        write_whole(folder, Path(temporary))
        yield Path(temporary)


def write_whole(folder: Path, target: Path) -> None:
    """Write the ordinary folder of what `folder` holds, a model or an adapter, without records.

    Raises RunError, naming what is damaged, where it is not the one that was saved.
    """
    check_whole(folder, target)
    for name in read_manifest(folder):
        file = folder / name
        if file.is_file() and name != BASE:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with writing(target / name):
                shutil.copyfile(file, target / name)


def make_whole(folder: Path) -> None:
    """Put the whole files in place of the deltas of a folder of ours, so that it needs no other.

    Each is compared with the manifest before it gets its name. A kill leaves a folder of the same
    weights; RunError where they are damaged.
    """
    record = read_delta(folder)
    if record is not None:
        with tempfile.TemporaryDirectory(prefix=".whole-", dir=folder) as temporary:
            check_whole(folder, Path(temporary))
            for file in record["weights"]:
                if not (folder / file).is_file():
                    (Path(temporary) / file).replace(folder / file)
        (folder / DELTA).unlink()
    for left in folder.glob("*.delta.safetensors"):
        left.unlink()


def check_whole(folder: Path, target: Path | None = None) -> None:
    """Make the weights of a folder again, and compare them with its manifest; RunError if damaged.

    They are written into `target` where one is given.
    """
    record = read_delta(folder)
    if record is None:
        return
    _check_chain(folder)
    stored, manifest = StoredTensors(folder), read_manifest(folder)
    for file in record["weights"]:
        if (folder / file).is_file():  # made whole since, and compared by `verify_folder`
            continue
        digest = hashlib.sha256()
        if target is None:
            for part in _bytes_of(stored, file):
                digest.update(part)
        else:
            with writing(target / file), (target / file).open("wb") as out:
                for part in _bytes_of(stored, file):
                    digest.update(part)
                    out.write(part)
        if digest.hexdigest() != manifest[file]["sha256"]:
            raise RunError(
                f"{folder / file}: made again from {delta_place(folder / file).name}, its checksum "
                f"differs: the model that it is the difference to is another one, or damaged; "
                f"{train_again(folder)}"
            )


def _check_chain(folder: Path) -> None:
    """Everything of ours that a delta is made from, each file against its own checksum."""
    verify_folder(folder)
    base = delta_base(folder)
    if base is not None and (Path(base) / MANIFEST).is_file():
        _check_chain(Path(base))


def _bytes_of(stored: StoredTensors, file: str) -> Iterator[Any]:
    """Of the whole file, in order."""
    yield stored.header_bytes(file)
    for name in stored.header(file):
        yield words(stored.get(name)).view(torch.uint8).numpy().data


def _files(folder: Path, deltas: set[str]) -> dict[str, Path]:
    """In which whole file of a folder each tensor is; empty where there are no safetensors."""
    if (folder / ONE).is_file():
        with safe_open(folder / ONE, framework="pt") as whole:
            return dict.fromkeys(whole.keys(), folder / ONE)
    if not (folder / INDEX).is_file():
        return {}
    found = read_json(folder / INDEX)["weight_map"]
    return {name: folder / file for name, file in found.items() if file not in deltas}


def _header_of(file: Path) -> dict[str, Any]:
    with file.open("rb") as begin:
        data = json.loads(begin.read(int.from_bytes(begin.read(8), "little")))
    data.pop("__metadata__", None)
    return dict(data)


def _checksum(tensor: Tensor) -> str:
    return hashlib.sha256(words(tensor).view(torch.uint8).numpy().data).hexdigest()
