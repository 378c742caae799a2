"""Run folders: what is done is what is on disk.

Files are written beside their place and renamed into it, so that a name that exists is whole. A
stage has three states: nothing, trained (`checkpoint/` exists, renamed into place), done
(`scores.json` exists, written last). What is done stays done when its checkpoint is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError, UserError
from cl_bench.resources import expanded
from cl_bench.store.file_errors import writing
from cl_bench.store.links import leading_out

MANIFEST = "manifest.json"
DELTA = "delta.json"
"""In a folder that has deltas in place of its weights (`deltas.py`)."""


def write_json(path: Path, data: Any) -> None:
    """Write atomically; the folder is made if needed."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write to a temporary name, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # of a killed process, or a link that must not be followed
    with writing(path), temporary.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path, remedy: str = "restore it from a copy") -> Any:
    """Read a file of ours; raises RunError naming it and the remedy when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: unreadable ({error}); {remedy}") from error


def there(path: Path) -> bool:
    """Whether a file of ours exists; raises RunError where something else has its name."""
    if path.is_file():
        return True
    if path.is_symlink() or path.exists():
        raise RunError(f"{path}: not a file; remove it, or restore the file from a copy")
    return False


def append_line(path: Path, record: dict[str, Any]) -> None:
    """One JSON object more at the end of a file, on disk when this returns.

    The file is opened each time, so that an error of writing it (a full disk) is told as its own.
    """
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records]
    write_text(path, "".join(line + "\n" for line in lines))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The lines that `write_records` wrote; raises RunError naming the file when it is damaged."""
    remedy = "restore it from a copy, or score that stage again (cl-bench eval)"
    try:
        # Not splitlines: answers may hold other characters that it takes for the end of a line.
        lines = path.read_text(encoding="utf-8").split("\n")
        records = [json.loads(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: unreadable ({error}); {remedy}") from error
    if not all(isinstance(record, dict) for record in records):
        raise RunError(f"{path}: a line is not a JSON object; {remedy}")
    return records


def sha256_of(data: Any) -> str:
    """Checksum of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Checksum of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def publish_folder(
    temporary: Path,
    final: Path,
    ready: Callable[[str], None] | None = None,
    shrink: Callable[[Path], None] | None = None,
) -> None:
    """Rename a finished folder into place, with a manifest of sizes and checksums.

    `shrink` may then store some of its files otherwise (`deltas.py`). `ready` is called with the
    manifest's checksum just before the renaming.
    """
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    manifest = {
        str(path.relative_to(temporary)): {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in files
    }
    write_json(temporary / MANIFEST, manifest)
    if shrink is not None:
        shrink(temporary)
    if ready is not None:
        ready(sha256_file(temporary / MANIFEST))
    if final.exists():
        shutil.rmtree(final)
    temporary.replace(final)


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Sizes and checksums of a published folder's files. Raises RunError when it is damaged."""
    manifest = read_json(folder / MANIFEST, train_again(folder))
    if isinstance(manifest, dict) and (away := leading_out(manifest)) is not None:
        fault = f"names a file outside of its folder ({away!r})"
        raise RunError(f"{folder / MANIFEST}: {fault}; {train_again(folder)}")
    try:
        return {
            name: {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}
            for name, entry in manifest.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        fault = f"no sizes and checksums ({type(error).__name__})"
        raise RunError(f"{folder / MANIFEST}: {fault}; {train_again(folder)}") from error


def verify_folder(folder: Path, up_to: int | None = None) -> None:
    """Raise RunError if a file of a published folder is missing or has changed.

    Of files with more than `up_to` bytes only the size is looked at. Of a file that is stored as a
    delta what is stored is compared, without the model that it belongs to.
    """
    from cl_bench.store.deltas import check_stored

    for name, expected in read_manifest(folder).items():
        path = folder / name
        if not path.is_file() and delta_place(path).is_file():
            check_stored(folder, name, up_to)
            continue
        if not path.is_file() or path.stat().st_size != expected["bytes"]:
            raise RunError(f"{path}: missing or cut short; {train_again(folder)}")
        small = up_to is None or expected["bytes"] <= up_to
        if small and sha256_file(path) != expected["sha256"]:
            raise RunError(f"{path}: checksum differs; {train_again(folder)}")


def delta_place(file: Path) -> Path:
    """Where that is which is stored of a file of weights in place of it."""
    return file.with_name(f"{file.name.removesuffix('.safetensors')}.delta.safetensors")


def _stored(file: Path) -> bool:
    """Whether a file of a published folder is there, whole or as a delta."""
    return there(file) or there(delta_place(file))


def train_again(folder: Path) -> str:
    """What to do about a damaged checkpoint; scores, predictions and records stay."""
    return (
        f"restore it from a copy, or delete {folder} and run the same command again: the stage is "
        "trained again where a later one needs it, and its scores are kept"
    )


@dataclass(frozen=True)
class StageFolder:
    """`stage-<t>-<task>` of a run."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The model after the stage."""
        return self.path / "checkpoint"

    @property
    def trained(self) -> bool:
        """Whether the checkpoint is there. No file that its manifest lists may have been deleted.

        Raises RunError when the manifest is damaged.
        """
        if not there(self.checkpoint / MANIFEST):
            return False
        return all(_stored(self.checkpoint / name) for name in read_manifest(self.checkpoint))

    def missing_file(self) -> Path | None:
        """The first file that a checkpoint lacks which is there otherwise."""
        if not self.checkpoint.is_dir():
            return None
        if not there(self.checkpoint / MANIFEST):
            return self.checkpoint / MANIFEST
        names = read_manifest(self.checkpoint)
        return next(
            (self.checkpoint / name for name in names if not _stored(self.checkpoint / name)), None
        )

    @property
    def scored(self) -> bool:
        """Whether the stage is done; the checkpoint may have been deleted since, to save room."""
        return there(self.scores_file)

    @property
    def worth_keeping(self) -> bool:
        """Whether training was finished here once, so that a second one must delete nothing."""
        kept = (self.scores_file, self.training_file, self.path / "partial")
        return any(path.exists() for path in kept)

    @property
    def scores_file(self) -> Path:
        """Written last."""
        return self.path / "scores.json"

    @property
    def training_file(self) -> Path:
        """The checkpoint's checksum and those of the files that training left beside it."""
        return self.path / "trained.json"

    @property
    def failure_file(self) -> Path:
        """Where and how its training diverged."""
        return self.path / "failed.json"

    @property
    def scored_model(self) -> Path:
        """The model that is scored, where the method scores another one than is trained on."""
        return self.path / "scored"

    @property
    def method_state(self) -> Path:
        """Tensors the method keeps for the next stage."""
        return self.path / "method.safetensors"

    @property
    def method_records(self) -> Path:
        """JSON values the method keeps for the next stage."""
        return self.path / "method.json"

    @property
    def selection_file(self) -> Path:
        """What a plan chose to train, and what it ranked by (`training/selections.py`)."""
        return self.path / "selection.safetensors"

    @property
    def base(self) -> Path:
        """The base model's scores, which all runs of the experiment share."""
        return self.path.parents[2] / "base"

    def fingerprint(self) -> str:
        """Checksum of the checkpoint's manifest, and so of all of its files."""
        return sha256_file(self.checkpoint / MANIFEST)


@dataclass(frozen=True)
class RunFolder:
    """`results/<name>/<method>/seed-<n>`."""

    path: Path

    def stage(self, name: str) -> StageFolder:
        """The folder of one stage."""
        return StageFolder(self.path / name)

    def stages(self) -> list[StageFolder]:
        """Existing stage folders in order."""
        found = [path for path in self.path.glob("stage-*") if is_stage(path)]
        return [StageFolder(path) for path in sorted(found, key=lambda p: stage_number(p.name))]

    @property
    def bound(self) -> bool:
        """Whether it holds results: only then do its settings have to stay."""
        return any(stage.trained or stage.worth_keeping for stage in self.stages())


def portable(path: str, folder: Path) -> str:
    """A path as results keep it: a folder relative to `folder`, from a dot on; hub ids stay."""
    given = expanded(path)
    if not given.is_absolute() and not given.is_dir():
        return path
    relative = os.path.relpath(given.resolve(), folder.resolve())
    return relative if relative.startswith(os.curdir) else f"./{relative}"


def located(path: str, folder: Path) -> str:
    """The path that `portable` was given."""
    return str((folder / path).resolve()) if path.startswith(os.curdir) else path


def is_stage(path: Path) -> bool:
    """Whether it is a folder with a stage's name; others may keep theirs beside it."""
    return bool(re.match(r"stage-\d+-", path.name)) and path.is_dir()


def stage_number(name: str) -> int:
    """3 for `stage-3-trace_py150`."""
    return int(name.split("-")[1])


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process works in an experiment folder. Raises UserError when one already does."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder}: another cl-bench is working here") from None
    try:
        yield
    finally:
        lock.release()
