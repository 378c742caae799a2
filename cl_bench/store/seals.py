"""Whether files are as they were written: a checksum inside a JSON file, and records of others.

`scores.json` and its like hold the checksum of their own content under `sha256`, and under `files`
size, lines and checksum of the files that belong to them. What is older has neither and is taken as
it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError
from cl_bench.scores.general import leaves
from cl_bench.store.folders import read_json, sha256_file, sha256_of, there, write_json
from cl_bench.store.links import leading_out
from cl_bench.store.once import once
from cl_bench.store.shapes import ScoresShape, check_shape, task_names

SEAL = "sha256"
FILES = "files"


def seal_of(data: Mapping[str, Any], seal: str = SEAL) -> str:
    """Checksum of the content as it is read back, the seal itself (under that key) aside."""
    plain = json.loads(json.dumps({key: value for key, value in data.items() if key != seal}))
    return sha256_of(plain)


def write_sealed(path: Path, data: Mapping[str, Any]) -> None:
    """`write_json` with the content's checksum under `sha256`."""
    write_json(path, {**data, SEAL: seal_of(data)})


def read_sealed(path: Path, remedy: str, needs: Mapping[str, type] | None = None) -> dict[str, Any]:
    """A JSON object; raises RunError with the remedy when it is damaged or was edited.

    One without a seal is of an older version, unless it lists files, as older ones do not. `needs`
    are the keys that every version wrote, with the type of their values.
    """
    data = read_json(path, remedy)
    if not isinstance(data, dict):
        raise RunError(f"{path}: not a JSON object; {remedy}")
    if (SEAL in data or FILES in data) and data.get(SEAL) != seal_of(data):
        raise RunError(
            f"{path}: its checksum is not that of its content: edited or damaged; {remedy}"
        )
    listed = data.get(FILES)
    if isinstance(listed, dict) and (away := leading_out(listed)) is not None:
        raise RunError(f"{path}: names a file outside of its folder ({away!r}); {remedy}")
    for key, kind in (needs or {}).items():
        if not isinstance(data.get(key), kind):
            raise RunError(f"{path}: no '{key}' in it; {remedy}")
    return data


def file_record(path: Path) -> dict[str, Any]:
    """Size, checksum and, of JSON lines, how many."""
    record: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            record["lines"] = sum(1 for _ in file)
    return record


def file_records(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Records of those files of a folder that exist, by name."""
    return {name: file_record(folder / name) for name in names if (folder / name).is_file()}


def file_fault(path: Path, expected: Mapping[str, Any]) -> str | None:
    """What is wrong with a file that was recorded; None when it is as it was."""
    if not path.is_file():
        return "missing"
    if path.stat().st_size == expected["bytes"] and sha256_file(path) == expected["sha256"]:
        return None
    if "lines" in expected and (lines := file_record(path)["lines"]) != expected["lines"]:
        return f"has {lines} lines, {expected['lines']} were written"
    return "not as it was written (its checksum differs)"


def check_files(
    folder: Path, recorded: Mapping[str, Mapping[str, Any]], names: Iterable[str], remedy: str
) -> None:
    """Raise RunError naming the first of these files that is missing or not as recorded."""
    for name in names:
        if name in recorded and (fault := file_fault(folder / name, recorded[name])):
            raise RunError(f"{folder / name}: {fault}; {remedy}")


def read_scores(place: Path) -> dict[str, Any]:
    """`scores.json` of a stage, of the base model or of an `evals/<id>/` folder.

    Raises RunError when it is damaged or was edited.
    """

    def read() -> dict[str, Any]:
        if not there(file):
            raise RunError(
                f"{file}: not there (not scored yet, or deleted); `cl-bench run` goes on"
            )
        scores = read_sealed(file, SCORE_AGAIN, {"trace": dict, "general": dict})
        check_shape(file, scores, ScoresShape, SCORE_AGAIN)
        members = [leaf for found in leaves(scores["general"]).values() for leaf in found]
        task_names(file, [*scores["trace"], *members], SCORE_AGAIN)
        return scores

    file = place / "scores.json"
    found: dict[str, Any] = once("scores", file, read)
    return found


def check_records(
    place: Path, scores: Mapping[str, Any], leaves: Iterable[str] | None = None
) -> None:
    """Raise RunError where a file of single documents is not as it was when `scores` were written.

    `leaves`: of these tasks alone. Without the whole folder (deleted to save room, or never copied)
    there is nothing to check.
    """
    recorded = scores.get(FILES, {})
    if (place / "predictions").is_dir():
        names = [name for name in recorded if name.startswith("predictions/")]
        if leaves is not None:
            names = [f"predictions/{leaf}.jsonl" for leaf in leaves]
        check_files(place, recorded, names, _RECORDS_AGAIN.format(place))


def check_distributions(base: Path) -> None:
    """Raise RunError where a file of the base model's distributions is not as it was written."""
    recorded = read_scores(base).get(FILES, {})
    names = [name for name in recorded if name.startswith("kl/")]
    check_files(base, recorded, names, f"restore it from a copy; or {_BASE_AGAIN.format(base)}")


_BASE_AGAIN = "delete {0}/scores.json and run again, which scores the base model again"
SCORE_AGAIN = (
    "restore it from a copy, or delete it and run the same command again: what it holds is scored "
    "again"
)
_RECORDS_AGAIN = (
    "restore it from a copy; or delete {0}/scores.json and run again, which scores all of it "
    "again; or delete {0}/predictions, and nothing is compared document by document"
)
