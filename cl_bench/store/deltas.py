"""What lies in a folder in place of its weights where only the difference to others is stored.

`manifest.json` lists the whole files, whatever is stored of them: it is the same for a folder with
`model.safetensors` and for one that has `model.delta.safetensors` and `delta.json` instead, so that
everything that is bound to a checkpoint stays bound to it. `delta.json` has sizes and checksums of
what is stored, how each tensor is made again with its checksum, and what model it is made from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cl_bench.errors import RunError
from cl_bench.store.folders import DELTA, delta_place, sha256_file, there, train_again
from cl_bench.store.links import leading_out
from cl_bench.store.seals import read_sealed, write_sealed
from cl_bench.store.shapes import DeltaShape, check_shape


def write_delta(folder: Path, record: dict[str, Any]) -> None:
    """`base`, its contents `of`; `weights`: of each whole file what is `stored`, and `tensors`."""
    write_sealed(folder / DELTA, record)


def read_delta(folder: Path) -> dict[str, Any] | None:
    """The record; None where the folder is an ordinary one. Raises RunError when it is damaged."""
    if not there(folder / DELTA):
        return None
    remedy = train_again(folder)
    record = read_sealed(folder / DELTA, remedy)
    check_shape(folder / DELTA, record, DeltaShape, remedy)
    if (away := leading_out(record["weights"])) is not None:
        raise RunError(f"{folder / DELTA}: names a file outside of its folder ({away!r}); {remedy}")
    return record


def check_stored(folder: Path, name: str, up_to: int | None = None) -> None:
    """Raise RunError unless what is stored of a whole file is as it was written.

    Of more than `up_to` bytes only the size is looked at.
    """
    record, place = read_delta(folder), delta_place(folder / name)
    stored = ((record or {}).get("weights", {}).get(name) or {}).get("stored")
    if stored is None:
        raise RunError(f"{folder / DELTA}: says nothing of {name}; {train_again(folder)}")
    if not place.is_file() or place.stat().st_size != stored["bytes"]:
        raise RunError(f"{place}: missing or cut short; {train_again(folder)}")
    small = up_to is None or stored["bytes"] <= up_to
    if small and sha256_file(place) != stored["sha256"]:
        raise RunError(f"{place}: checksum differs; {train_again(folder)}")
