"""The files that training leaves in a stage's folder: whether they are as they were written."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from cl_bench.checkpoints import recorded_base
from cl_bench.errors import DivergedError, RunError
from cl_bench.seals import (
    FILES,
    check_files,
    check_records,
    file_records,
    read_scores,
    read_sealed,
    write_sealed,
)
from cl_bench.store import RunFolder, StageFolder, stage_number, verify_folder

TRAINING_FILES = ("train.jsonl", "curve.jsonl", "notes.json", "method.safetensors")
LOGS = ("train.jsonl", "notes.json")
"""No table is made of these: a finished stage may lack them."""
SMALL = 1 << 20
"""Bytes of a file whose checksum a finished stage's check looks at."""


def check_training(place: StageFolder, names: Sequence[str] = TRAINING_FILES) -> None:
    """Raise RunError where a file that training left is missing or not as it was written.

    The same where a method's state lies here that the training did not leave, and where the
    checkpoint is another one than was saved. Older stages have no record of it.
    """
    remedy = _remedy(place)
    if not place.training_file.is_file():
        if place.scored and place.training_file.name in read_scores(place.path).get(FILES, {}):
            raise RunError(f"{place.training_file}: missing; {remedy}")
        return
    record = read_sealed(place.training_file, remedy)
    if place.trained and record["checkpoint"] != place.fingerprint():
        raise RunError(f"{place.checkpoint}: not the checkpoint that was saved here; {remedy}")
    state = place.method_state
    if state.name in names and state.is_file() and state.name not in record["files"]:
        raise RunError(f"{state}: this stage's training has left no such file; {remedy}")
    check_files(place.path, record["files"], names, remedy)


def record_training(place: StageFolder, written: Path, fingerprint: str) -> None:
    """`trained.json`: what belongs to the checkpoint that is about to be renamed into place."""
    files = file_records(written, TRAINING_FILES)
    write_sealed(place.training_file, {"checkpoint": fingerprint, "files": files})


def record_failure(
    place: StageFolder, number: int, tasks: Sequence[str], error: DivergedError
) -> None:
    """`failed.json`: the update that diverged; numbers that are not finite are null."""
    numbers = {key: value if isfinite(value) else None for key, value in error.numbers.items()}
    about = {"stage": number, "tasks": list(tasks), "what": error.what}
    write_sealed(place.failure_file, about | numbers)


def read_failure(place: StageFolder) -> dict[str, Any]:
    """What `record_failure` wrote."""
    return read_sealed(place.failure_file, f"delete {place.path} to train that stage again")


def failure_advice(run: RunFolder, error: DivergedError) -> str:
    """How a run that diverged can go on: with the settings it is bound to it would again."""
    failed = next((s.path for s in run.stages() if s.failure_file.is_file()), run.path)
    again = f"to train it as it is once more, delete {failed}"
    lower = "a lower lr: (or another dtype or max_grad_norm) in its entry of methods:"
    if not run.bound:
        return f"Nothing of this run is trained yet, so set {lower} and run again; {again}"
    return (
        f"Its earlier stages are trained with these settings: give {lower} and another label:, "
        f"which makes it a run of its own, or delete {run.path} and set them; {again}"
    )


def check_done(place: StageFolder) -> None:
    """Raise RunError where a finished stage is not as it was left.

    Quick: checksums of scores, records and logs; of large files the size alone. What was deleted to
    save room (`checkpoint/`, a method's state, logs, `predictions/` as a whole) is no fault.
    """
    scores = read_scores(place.path)
    check_records(place.path, scores)
    if place.trained:
        verify_folder(place.checkpoint, SMALL)
    if not place.training_file.is_file():
        return
    recorded = read_sealed(place.training_file, _remedy(place))["files"]
    state = place.method_state
    names = [name for name in recorded if name != state.name]
    there = [name for name in names if name not in LOGS or (place.path / name).is_file()]
    check_files(place.path, recorded, there, _remedy(place))
    if state.is_file() and state.stat().st_size != recorded.get(state.name, {}).get("bytes"):
        raise RunError(f"{state}: not as it was written; {_remedy(place)}")


def checkpoint_fault(run: RunFolder, place: StageFolder) -> str | None:
    """Why the model after a stage cannot be loaded, and what can be done; None when it can.

    An adapter needs the checkpoint of the stage that it belongs to.
    """
    owner = place
    if place.trained:
        base = recorded_base(place.checkpoint)
        if base is None or not base.resolve().is_relative_to(run.path.resolve()):
            return None
        owner = StageFolder(base.resolve().parent)
        if owner.trained:
            return None
    there = [stage_number(s.path.name) for s in run.stages() if s.trained]
    more = f" (stages with one: {', '.join(map(str, there)) or 'none'})"
    if not owner.worth_keeping:
        return f"{owner.path}: not trained yet{more}; `cl-bench run` goes on"
    kept = f"; what was scored stays in {owner.scores_file}" if owner.scored else ""
    return (
        f"{owner.checkpoint}: the checkpoint is not there any more{more}{kept}. `cl-bench run` "
        "makes it again only where a later stage needs it; to have all of them again, run the "
        "config under another name (-o name=NEW)"
    )


def _remedy(place: StageFolder) -> str:
    return (
        f"restore it from a copy, or delete {place.checkpoint} and run the same command again: the "
        "stage is trained again where a later one needs it, and its scores are kept"
    )
