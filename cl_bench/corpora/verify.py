"""Is a data root what it should be? Schema, sizes and checksums of every file, and its variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cl_bench.corpora.checksums import checksum_of_file, examples_digest
from cl_bench.corpora.registry import FOLDERS, LIMA, SPLITS, KnownFile, known_files, versions_of
from cl_bench.data.rows import (
    BbhExamples,
    BbhRow,
    BoolqRow,
    BoolqSentence,
    Gsm8kRow,
    MmluRow,
    PiqaRow,
    RowModel,
    TydiqaRow,
    read_rows,
    trace_rows,
)
from cl_bench.data.sources import trace_file
from cl_bench.errors import UserError, nearest


@dataclass(frozen=True)
class FileCheck:
    """What one file turned out to be.

    `verdict`: `exact` (known bytes), `rebuilt` (known bytes of a file that is not TRACE's own),
    `same examples` (known examples, written differently), `size only` (a published size, but
    nobody here has read that version's examples) or `faulty`.
    """

    file: str
    verdict: str
    rows: int | None
    size: int
    variants: tuple[str, ...] = ()


@dataclass
class Verification:
    """The result for a data root. `tasks` gives each TRACE task's variant in words."""

    root: str
    files: list[FileCheck] = field(default_factory=list)
    tasks: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return {"ok": not self.faults, **asdict(self)}


def verify(root: Path) -> Verification:
    """Checks `root` (a data root, or a folder that holds TRACE's task folders itself).

    Faults are collected, not raised, but for a root that holds no data at all: UserError.
    """
    trace, general = trace_folder(root), root / "general"
    if trace is None and not general.is_dir():
        raise UserError(f"{root}: holds neither trace/<Task>/ nor general/<name>/ folders")
    result = Verification(str(root))
    if trace is not None:
        _verify_trace(trace, result)
    if general.is_dir():
        _verify_general(general, result)
    unfinished = sorted(root.rglob("*.part"))
    result.notes += [f"{path}: an unfinished download" for path in unfinished]
    return result


def trace_folder(root: Path) -> Path | None:
    """`root/trace`, or `root` itself where the task folders are in it; None without any."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    if (root / "trace").is_dir():
        return root / "trace"
    return root if any((root / task).is_dir() for task in FOLDERS) else None


def _verify_trace(folder: Path, result: Verification) -> None:
    known = (*FOLDERS, LIMA)
    for stray in sorted(entry.name for entry in folder.iterdir() if entry.is_dir()):
        if stray not in known and not stray.startswith("."):
            result.faults.append(f"{folder / stray}: not a task of TRACE{nearest(stray, known)}")
    for task in known:
        if (folder / task).is_dir():
            result.tasks[task] = _verify_task(folder / task, result)
        elif task != LIMA:
            result.tasks[task] = "absent"


def _verify_task(folder: Path, result: Verification) -> str:
    checks: dict[str, FileCheck] = {}
    for split in SPLITS:
        path = trace_file(folder, split)
        if path.is_file():
            versions = versions_of(f"trace/{folder.name}/{split}.json")
            checks[split] = _check_trace_file(path, versions, result)
        elif split == "eval":
            result.notes.append(f"{path}: missing; nothing trains or scores on it")
        else:
            result.faults.append(f"{path}: missing")
    result.files += checks.values()
    return _variant_in_words(checks)


def _check_trace_file(path: Path, versions: Sequence[KnownFile], result: Verification) -> FileCheck:
    file, size = versions[0].file, path.stat().st_size
    try:
        rows = trace_rows(path)
    except UserError as error:
        result.faults += error.faults
        return FileCheck(file, "faulty", None, size)
    checksum = checksum_of_file(path)
    exact = [known for known in versions if checksum.matches(known)]
    if exact:
        variants = tuple(known.variant for known in exact)
        return FileCheck(file, exact[0].status, len(rows), size, variants)
    digest = examples_digest(rows)
    same = tuple(known.variant for known in versions if known.examples == digest)
    if same:
        return FileCheck(file, "same examples", len(rows), size, same)
    return _check_size(path, len(rows), versions, result)


def _check_size(
    path: Path, rows: int, versions: Sequence[KnownFile], result: Verification
) -> FileCheck:
    file, size = versions[0].file, path.stat().st_size
    unread = [known for known in versions if known.examples is None and known.rows in (None, rows)]
    if unread:
        variants = tuple(known.variant for known in unread)
        result.notes.append(
            f"{path}: {rows:,} rows, other bytes than the republication's variant "
            f"{'/'.join(variants)}, whose examples could not be compared"
        )
        return FileCheck(file, "size only", rows, size, variants)
    as_many = [known.variant for known in versions if known.rows == rows]
    sizes = ", ".join(f"{known.rows:,} ({known.variant})" for known in versions if known.rows)
    told = f"as many as variant {'/'.join(as_many)}, but not its examples" if as_many else ""
    result.faults.append(f"{path}: {rows:,} rows, {told or f'known sizes: {sizes}'}")
    return FileCheck(file, "faulty", rows, size)


def _variant_in_words(checks: dict[str, FileCheck]) -> str:
    """`5000`; `mixed: train rebuilt, eval 500, test 500`; `faulty`; `incomplete`."""
    if any(check.verdict == "faulty" for check in checks.values()):
        return "faulty"
    if not {"train", "test"} <= checks.keys():
        return "incomplete"
    shared = set.intersection(*(set(check.variants) for check in checks.values()))
    if shared:
        return "/".join(sorted(shared, key=int, reverse=True))
    parts = [f"{split} {'/'.join(check.variants)}" for split, check in checks.items()]
    return f"mixed: {', '.join(parts)}"


GENERAL_ROWS: dict[str, type[RowModel]] = {
    "bbh": BbhRow,
    "bbh/dev": BbhExamples,
    "boolq": BoolqRow,
    "boolq/dev": BoolqSentence,
    "gsm8k": Gsm8kRow,
    "mmlu": MmluRow,
    "piqa": PiqaRow,
    "tydiqa": TydiqaRow,
}
"""Rows of `general/<name>/*.jsonl`; `<name>/<split>` where a split has another form."""


def _verify_general(folder: Path, result: Verification) -> None:
    names = [name for name in GENERAL_ROWS if "/" not in name]
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir():
            continue
        if entry.name not in names:
            result.faults.append(f"{entry}: not a general set{nearest(entry.name, names)}")
            continue
        for path in sorted(entry.glob("*.jsonl")):
            result.files.append(_check_general_file(path, result))


def _check_general_file(path: Path, result: Verification) -> FileCheck:
    name, size = path.parent.name, path.stat().st_size
    file = f"general/{name}/{path.name}"
    model = GENERAL_ROWS.get(f"{name}/{path.stem}", GENERAL_ROWS[name])
    try:
        rows = len(read_rows(path, model))
    except UserError as error:
        result.faults += error.faults
        return FileCheck(file, "faulty", None, size)
    known = next((known for known in known_files() if known.file == file), None)
    if known is None:
        result.notes.append(f"{path}: {rows:,} rows; no size or checksum is known for this split")
        return FileCheck(file, "size only", rows, size)
    if checksum_of_file(path).matches(known):
        return FileCheck(file, "exact", rows, size)
    if rows == known.rows:
        result.notes.append(f"{path}: the known {rows:,} rows, but other bytes")
        return FileCheck(file, "size only", rows, size)
    result.faults.append(f"{path}: {rows:,} rows, known size: {known.rows:,}")
    return FileCheck(file, "faulty", rows, size)
