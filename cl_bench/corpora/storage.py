"""Writing into a data root: one writer at a time, files complete or absent, none overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cl_bench.corpora.checksums import checksum_of_file
from cl_bench.corpora.registry import KnownFile, versions_of
from cl_bench.errors import UserError

LOCK = ".cl-bench-data.lock"
_SPARE = 64 * 2**20  # room a file system wants beside the data


def data_root(chosen: Path | None) -> Path:
    """The folder that runs read data from: what was chosen, else the default of `data_root:`."""
    from cl_bench.data.sources import resolve_data_root

    return resolve_data_root(chosen)


@contextmanager
def holding_data_root(root: Path) -> Iterator[None]:
    """Holds the data root's lock. Raises UserError if another process has it or it can't be."""
    from filelock import FileLock, Timeout

    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / LOCK, timeout=0)
        with lock:
            yield
    except Timeout as error:
        raise UserError(f"{root}: another `cl-bench data` command is writing there") from error
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"--root: cannot write to {root}: {error.strerror}") from error


def holds(target: Path, known: KnownFile) -> bool:
    """Whether `target` is there and has the known bytes."""
    return target.is_file() and checksum_of_file(target).matches(known)


def holds_bytes(target: Path, data: bytes) -> bool:
    """Whether `target` is there with exactly this content."""
    return target.is_file() and target.stat().st_size == len(data) and target.read_bytes() == data


def check_overwrite(targets: Iterable[Path], root: Path) -> None:
    """Raises UserError listing every target that exists: nothing is lost by accident."""
    faults = [
        f"{target}: is there already with other content{_what_it_is(target, root)}; "
        "choose another --root, or replace it with --force"
        for target in targets
        if target.exists()
    ]
    if faults:
        raise UserError(faults)


def check_room(root: Path, needed: int) -> None:
    """Raises UserError if the disk of `root` has not `needed` bytes and some spare."""
    free = shutil.disk_usage(root).free
    if free < needed + _SPARE:
        raise UserError(
            f"--root: {root} has {free / 1e6:,.0f} MB free, {(needed + _SPARE) / 1e6:,.0f} needed"
        )


def replace_all(staged: Mapping[Path, Path]) -> None:
    """Moves finished files (staged -> target, same disk) into place, each atomically."""
    for source, target in staged.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def _what_it_is(target: Path, root: Path) -> str:
    file = target.relative_to(root).as_posix()
    if not target.is_file():
        return ""
    checksum = checksum_of_file(target)
    variants = [known.variant for known in versions_of(file) if checksum.matches(known)]
    return f" (variant {variants[0]})" if variants and variants[0] else ""
