"""Run folders: what is done is what is on disk.

Files are written beside their place and renamed into it, so that a name that exists is whole. A
stage has three states: nothing, trained (`checkpoint/` exists, renamed into place), complete
(`scores.json` exists, written last).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError, UserError, nearest
from cl_bench.file_errors import writing

MANIFEST = "manifest.json"


def write_json(path: Path, data: Any) -> None:
    """Write atomically; the folder is made if needed."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write to a temporary name, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path), temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Read a file of ours; raises RunError naming it when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: unreadable ({error}); delete it and run again") from error


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records]
    write_text(path, "".join(line + "\n" for line in lines))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The lines that `write_records` wrote; raises RunError naming the file when it is damaged."""
    try:
        # Not splitlines: answers may hold other characters that it takes for the end of a line.
        lines = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: unreadable ({error}); score that stage again") from error


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


def publish_folder(temporary: Path, final: Path) -> None:
    """Rename a finished folder into place, with a manifest of sizes and checksums."""
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    manifest = {
        str(path.relative_to(temporary)): {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in files
    }
    write_json(temporary / MANIFEST, manifest)
    if final.exists():
        shutil.rmtree(final)
    temporary.replace(final)


def verify_folder(folder: Path) -> None:
    """Raise RunError if a file of a published folder is missing or has changed."""
    for name, expected in read_json(folder / MANIFEST).items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"]:
            raise RunError(f"{path}: missing or cut short; delete {folder} and run again")
        if sha256_file(path) != expected["sha256"]:
            raise RunError(f"{path}: checksum differs; delete {folder} and run again")


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
        """Whether training is finished and saved."""
        return (self.checkpoint / MANIFEST).is_file()

    @property
    def scored(self) -> bool:
        """Whether its scores are there; the checkpoint they are of may have been deleted since."""
        return self.scores_file.is_file()

    @property
    def complete(self) -> bool:
        """Whether the stage is trained and scored."""
        return self.trained and self.scored

    @property
    def scores_file(self) -> Path:
        """Written last."""
        return self.path / "scores.json"

    @property
    def method_state(self) -> Path:
        """Tensors the method keeps for the next stage."""
        return self.path / "method.safetensors"

    @property
    def base(self) -> Path:
        """The base model's scores, which all runs of the experiment share."""
        return self.path.parents[2] / "base"

    def fingerprint(self) -> str:
        """Checksum of the checkpoint's manifest, and so of all of its files."""
        return sha256_file(self.checkpoint / MANIFEST)

    def restart(self) -> None:
        """Remove what an interrupted training left, so that nothing half-written is trusted."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)


@dataclass(frozen=True)
class RunFolder:
    """`results/<name>/<method>/seed-<n>`."""

    path: Path

    def stage(self, name: str) -> StageFolder:
        """The folder of one stage."""
        return StageFolder(self.path / name)

    def stages(self) -> list[StageFolder]:
        """Existing stage folders in order."""
        found = [path for path in self.path.glob("stage-*") if path.is_dir()]
        return [StageFolder(path) for path in sorted(found, key=lambda p: stage_number(p.name))]


def portable(path: str, folder: Path) -> str:
    """A path as results keep it: a folder relative to `folder`, from a dot on; hub ids stay."""
    given = Path(path).expanduser()
    if not given.is_absolute() and not given.is_dir():
        return path
    relative = os.path.relpath(given.resolve(), folder.resolve())
    return relative if relative.startswith(os.curdir) else f"./{relative}"


def located(path: str, folder: Path) -> str:
    """The path that `portable` was given."""
    return str((folder / path).resolve()) if path.startswith(os.curdir) else path


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


def latest_experiment(results: Path) -> Path:
    """The experiment under `results` that was run last."""
    found = [file.parent for file in results.glob("*/experiment.json")]
    if not found:
        raise UserError(f"{results}: no experiment here; run one first or name its folder")
    return max(found, key=lambda folder: str(read_json(folder / "experiment.json")["last_run"]))


def find_experiment(given: str | None, results: Path) -> Path:
    """An experiment's folder from a path, a name under `results`, or nothing (the latest)."""
    if given is None:
        return latest_experiment(results)
    for candidate in (Path(given), results / given):
        if (candidate / "experiment.json").is_file():
            return candidate
    known = [file.parent.name for file in results.glob("*/experiment.json")]
    raise UserError(f"{given}: no experiment (experiment.json) there{nearest(given, known)}")


def find_runs(
    experiment: Path, method: str | None = None, seed: int | None = None
) -> list[RunFolder]:
    """The runs of an experiment, in the order they were started, narrowed by method and seed."""
    from cl_bench.config import slug

    runs = [file.parent for file in experiment.glob("*/seed-*/run.json")]
    runs.sort(key=lambda folder: (read_json(folder / "run.json").get("order", 0), folder.name))
    if method is not None:
        known = sorted({folder.parent.name for folder in runs})
        runs = [folder for folder in runs if folder.parent.name == slug(method)]
        if not runs:
            raise UserError(
                f"--method {method}: no such run in {experiment}{nearest(method, known)}"
            )
    if seed is not None:
        known = sorted({folder.name.removeprefix("seed-") for folder in runs})
        runs = [folder for folder in runs if folder.name == f"seed-{seed}"]
        if not runs:
            raise UserError(
                f"--seed {seed}: no such run in {experiment}{nearest(str(seed), known)}"
            )
    return [RunFolder(folder) for folder in runs]
