"""Importing TRACE's official archive, downloaded by hand: the zip, or the folder it unpacks to.

Nothing is extracted under a name the archive chose: members that look like
`.../LLM-CL-Benchmark_5000/FOMC/train.json` are read into memory, parsed, and written to
`trace/FOMC/train.json` under the data root. Everything else in it (`__MACOSX/`, `.DS_Store`) is
left alone.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from cl_bench.corpora.checksums import checksum_of_bytes, examples_digest
from cl_bench.corpora.registry import FOLDERS, LIMA, SPLITS, VARIANTS, versions_of
from cl_bench.corpora.storage import (
    check_overwrite,
    check_room,
    holding_data_root,
    holds_bytes,
    replace_all,
)
from cl_bench.data.rows import MAX_FILE, parse_trace
from cl_bench.errors import RunError, UserError, nearest

MAX_TOTAL = 2 * 2**30
"""Bytes all imported files may unpack to."""
MAX_MEMBERS = 100_000

Members = Mapping[PurePosixPath, tuple[int, Callable[[], bytes]]]
"""Every file of an archive or folder: its path inside, its declared size, and how to read it."""


@dataclass(frozen=True)
class Imported:
    """One file put under the data root. `recognised`: what is known about its content."""

    file: str
    source: str
    rows: int
    recognised: str


def import_archive(
    source: Path,
    root: Path,
    *,
    variant: str | None = None,
    tasks: Sequence[str] = FOLDERS,
    force: bool = False,
) -> list[Imported]:
    """Copies one variant of the archive into `root/trace`, all of it or nothing.

    Without `variant`: 5000 where the archive has it, else the only one there. `eval.json` may be
    missing (in TRACE's archive it is, for 20Minuten of the 500 variant). Raises UserError with
    every fault: not an archive, unsafe or oversized members, missing tasks, faulty rows.
    """
    if source.is_dir():
        return _import(source, _folder_members(source), root, variant, tasks, force)
    with _open_zip(source) as archive:
        return _import(source, _zip_members(source, archive), root, variant, tasks, force)


def _import(
    source: Path,
    members: Members,
    root: Path,
    variant: str | None,
    tasks: Sequence[str],
    force: bool,
) -> list[Imported]:
    folder = _benchmark_folder(source, members, variant)
    chosen = _choose(source, members, folder, tasks)
    total = sum(members[member][0] for member in chosen.values())
    if total > MAX_TOTAL:
        raise UserError(
            f"{source}: unpacks to {total:,} bytes, more than the {MAX_TOTAL:,} allowed"
        )
    with holding_data_root(root):
        check_room(root, total)
        staging = Path(tempfile.mkdtemp(prefix=".import-", dir=root))
        try:
            staged, imported = _stage(source, members, chosen, root, staging)
            if not force:
                check_overwrite(staged.values(), root)
            replace_all(staged)
        except OSError as error:
            raise RunError(f"{root}: writing failed, nothing is imported: {error}") from error
        finally:
            shutil.rmtree(staging)
    return imported


def _stage(
    source: Path,
    members: Members,
    chosen: Mapping[str, PurePosixPath],
    root: Path,
    staging: Path,
) -> tuple[dict[Path, Path], list[Imported]]:
    """Parses every file, writes it to `staging`; what the root has already is not staged."""
    staged: dict[Path, Path] = {}
    imported, faults = [], []
    for number, (file, member) in enumerate(chosen.items()):
        where = f"{source}: {member}"
        try:
            data = members[member][1]()
            rows = parse_trace(data, where)
        except UserError as error:
            faults += error.faults
            continue
        imported.append(Imported(file, str(member), len(rows), _recognise(file, data, rows)))
        if not holds_bytes(root / file, data):
            waiting = staging / str(number)
            waiting.write_bytes(data)
            staged[waiting] = root / file
    if faults:
        raise UserError(faults)
    return staged, imported


def _recognise(file: str, data: bytes, rows: Sequence[tuple[str, str]]) -> str:
    checksum, examples = checksum_of_bytes(data), examples_digest(rows)
    known = versions_of(file)
    for version in known:
        if checksum.matches(version):
            return f"exact, variant {version.variant}"
    for version in known:
        if examples == version.examples:
            return f"the examples of variant {version.variant}, written differently"
    sizes = [version.variant for version in known if version.rows == len(rows)]
    return f"not known; {len(rows):,} rows, as variant {'/'.join(sizes)}" if sizes else "not known"


def _benchmark_folder(source: Path, members: Members, variant: str | None) -> PurePosixPath:
    """The folder inside the archive whose sub-folders are the tasks."""
    folders: dict[str, list[PurePosixPath]] = {}
    for folder in sorted({member.parent.parent for member in members if _is_data(member)}):
        folders.setdefault(_variant_of(folder), []).append(folder)
    if not folders:
        raise UserError(
            f"{source}: holds no <Task>/train.json of TRACE (tasks: {', '.join(FOLDERS)})"
        )
    names = ", ".join(name or "one that no LLM-CL-Benchmark_ folder names" for name in folders)
    usable = {name: found for name, found in folders.items() if name in ("", *VARIANTS)}
    if not usable:
        raise UserError(
            f"{source}: holds only the variant {names}, whose answers are not those that TRACE "
            f"trains on and scores; cl-bench reads the variants {', '.join(VARIANTS)}"
        )
    if variant is None:
        if "5000" not in usable and len(usable) > 1:
            named = ", ".join(name or "one that no folder names" for name in usable)
            raise UserError(f"{source}: holds several variants, say --variant: {named}")
        variant = "5000" if "5000" in usable else next(iter(usable))
    if variant not in folders:
        raise UserError(f"{source}: has no variant {variant}; it holds: {names}")
    if len(folders[variant]) > 1:
        twice = " and ".join(str(folder) for folder in folders[variant])
        raise UserError(f"{source}: variant {variant or 'unnamed'} is there twice: {twice}")
    return folders[variant][0]


def _variant_of(folder: PurePosixPath) -> str:
    """`5000` for `.../LLM-CL-Benchmark_5000`; empty for a folder not named so."""
    _, mark, variant = folder.name.partition("LLM-CL-Benchmark_")
    return variant if mark else ""


def _choose(
    source: Path, members: Members, folder: PurePosixPath, tasks: Sequence[str]
) -> dict[str, PurePosixPath]:
    """Target file -> member, for every task wanted. Raises UserError listing what is missing."""
    chosen: dict[str, PurePosixPath] = {}
    faults = []
    present = {member.parent.name for member in members if member.parent.parent == folder}
    for task in tasks:
        if task not in present:
            faults.append(f"{source}: {folder}: no folder {task}{nearest(task, present)}")
            continue
        for split in SPLITS:
            member = folder / task / f"{split}.json"
            if member in members:
                chosen[f"trace/{task}/{split}.json"] = member
            elif split != "eval":
                faults.append(f"{source}: {member} is missing")
    faults += [
        f"{source}: {member}: {members[member][0]:,} bytes, more than the {MAX_FILE:,} allowed"
        for member in chosen.values()
        if members[member][0] > MAX_FILE
    ]
    if faults:
        raise UserError(faults)
    return chosen


def _is_data(member: PurePosixPath) -> bool:
    known = (*FOLDERS, LIMA)
    return member.stem in SPLITS and member.suffix == ".json" and member.parent.name in known


def _is_junk(member: PurePosixPath) -> bool:
    return "__MACOSX" in member.parts or member.name.startswith(".")


def _folder_members(source: Path) -> Members:
    files = (path for path in source.rglob("*.json") if path.is_file())
    named = {PurePosixPath(path.relative_to(source).as_posix()): path for path in files}
    # The folder's own name may be what tells the variant, or the task.
    return {
        PurePosixPath(source.resolve().name) / member: (
            path.stat().st_size,
            _readable(str(path), path.read_bytes),
        )
        for member, path in named.items()
        if not _is_junk(member)
    }


def _open_zip(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise UserError(f"{source}: neither a folder nor a zip file: {error}") from error
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror or error}") from error


def _zip_members(source: Path, archive: zipfile.ZipFile) -> Members:
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > MAX_MEMBERS:
        raise UserError(f"{source}: {len(infos):,} files, more than the {MAX_MEMBERS:,} allowed")
    members: dict[PurePosixPath, tuple[int, Callable[[], bytes]]] = {}
    faults = []
    for info in infos:
        member = PurePosixPath(info.filename.replace("\\", "/"))
        if member.is_absolute() or ".." in member.parts or str(member)[1:2] == ":":
            faults.append(f"{source}: member {info.filename!r} points out of the archive")
        elif member in members:
            faults.append(f"{source}: member {info.filename!r} is there twice")
        elif not _is_junk(member):
            read = partial(archive.read, info)  # zipfile stops at the declared size, checked before
            members[member] = (info.file_size, _readable(f"{source}: {member}", read))
    if faults:
        raise UserError(faults)
    return members


def _readable(where: str, read: Callable[[], bytes]) -> Callable[[], bytes]:
    """`read`, its failures told as faults of the user's file."""

    def reading() -> bytes:
        try:
            return read()
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise UserError(f"{where}: cannot be read: {error}") from error
        # zipfile raises RuntimeError for an encrypted member, NotImplementedError for one that is
        # compressed in a way it does not know.
        except (NotImplementedError, RuntimeError) as error:
            raise UserError(f"{where}: cannot be unpacked: {error}") from error

    return reading
