"""The files that training leaves in a stage's folder: whether they are as they were written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from cl_bench.errors import DivergedError, RunError
from cl_bench.models.bases import recorded_base
from cl_bench.store.folders import (
    MANIFEST,
    RunFolder,
    StageFolder,
    sha256_file,
    stage_number,
    there,
    verify_folder,
)
from cl_bench.store.seals import (
    FILES,
    check_files,
    check_records,
    read_scores,
    read_sealed,
    write_sealed,
)
from cl_bench.store.shapes import TrainedShape, check_shape

STATE_FILES = ("method.safetensors", "method.json")
"""What the method keeps for the next stage."""
SELECTION = "selection.safetensors"
TRAINING_FILES = ("train.jsonl", "curve.jsonl", "notes.json", SELECTION, *STATE_FILES)
LOGS = ("train.jsonl", "notes.json", SELECTION)
"""No table is made of these: a finished stage may lack them."""
SMALL = 1 << 20
"""Bytes of a file whose checksum a finished stage's check looks at."""


def check_training(place: StageFolder) -> str | None:
    """Raise RunError where a file that training left is missing or not as it was written.

    The same where a method's state lies here that the training did not leave, and where the
    checkpoint is another one than was saved. Of a stage without a record of it that cannot be
    known: returns a line that says so.
    """
    record, remedy = _training_record(place), _remedy(place)
    if record is None:
        return (
            f"{place.training_file}: not there (of an older version, or deleted): whether the "
            "checkpoint and what belongs to it are as they were written is not known"
        )
    _check_manifest(place, record)
    for state in (place.method_state, place.method_records):
        if there(state) and state.name not in record["files"]:
            raise RunError(f"{state}: this stage's training has left no such file; {remedy}")
    check_files(place.path, record["files"], TRAINING_FILES, remedy)
    return None


def _check_manifest(place: StageFolder, record: Mapping[str, Any]) -> None:
    if place.trained and record["checkpoint"] != place.fingerprint():
        raise RunError(
            f"{place.checkpoint / MANIFEST}: not that of the checkpoint that was saved here; "
            f"{_remedy(place)}"
        )


def check_curve(place: StageFolder) -> None:
    """Raise RunError where the scores inside a stage are missing or not as they were written."""
    record = _training_record(place)
    if record is not None:
        remedy = f"restore it from a copy, or delete {place.path} and run the same command again"
        check_files(place.path, record["files"], ["curve.jsonl"], remedy)


def _training_record(place: StageFolder) -> dict[str, Any] | None:
    """What `record_training` wrote; None for a stage that never had it.

    Raises RunError when it is damaged, and when the stage's scores say that it was there.
    """
    remedy = _remedy(place)
    if there(place.training_file):
        record = read_sealed(place.training_file, remedy, {"checkpoint": str, "files": dict})
        check_shape(place.training_file, record, TrainedShape, remedy)
        return record
    if place.scored and place.training_file.name in read_scores(place.path).get(FILES, {}):
        raise RunError(f"{place.training_file}: missing; {remedy}")
    return None


def record_training(
    place: StageFolder,
    fingerprint: str,
    scored: str | None,
    files: Mapping[str, Mapping[str, Any]],
) -> None:
    """`trained.json`: what belongs to the checkpoint that is about to be renamed into place.

    `scored`: the checksum of the model that is scored, where it is another one.
    """
    apart = {} if scored is None else {"scored": scored}
    write_sealed(place.training_file, {"checkpoint": fingerprint, **apart, "files": files})


def model_to_score(place: StageFolder) -> Path:
    """The folder of the model that a trained stage's scores are of: `checkpoint/` or `scored/`.

    Raises RunError where the method scores a model of its own and that is not there as it was
    saved: nothing else may be scored in its place.
    """
    recorded, remedy = _training_record(place), _remedy(place)
    if recorded is None or "scored" not in recorded:
        return place.checkpoint
    manifest = place.scored_model / MANIFEST
    if not there(manifest):
        raise RunError(f"{place.scored_model}: the model that is scored is missing; {remedy}")
    if sha256_file(manifest) != recorded["scored"]:
        raise RunError(f"{place.scored_model}: not the model that was saved here; {remedy}")
    return place.scored_model


def scored_basis(place: StageFolder) -> dict[str, str]:
    """What identifies the model that is scored."""
    basis = {"checkpoint": place.fingerprint()}
    folder = model_to_score(place)
    return (
        basis if folder == place.checkpoint else {**basis, "scored": sha256_file(folder / MANIFEST)}
    )


def record_failure(
    place: StageFolder, number: int, tasks: Sequence[str], error: DivergedError
) -> None:
    """`failed.json`: the update that diverged; numbers that are not finite are null."""
    numbers = {key: value if isfinite(value) else None for key, value in error.numbers.items()}
    about = {"stage": number, "tasks": list(tasks), "what": error.what}
    write_sealed(place.failure_file, about | numbers)


def read_failure(place: StageFolder) -> dict[str, Any]:
    """What `record_failure` wrote."""
    again = f"delete {place.path} to train that stage again"
    return read_sealed(place.failure_file, again, {"what": str})


def failure_advice(run: RunFolder, error: DivergedError) -> str:
    """How a run that diverged can go on: with the settings it is bound to it would again."""
    failed = next((s.path for s in run.stages() if there(s.failure_file)), run.path)
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
    record = _training_record(place)
    if record is not None:
        _check_manifest(place, record)
    if place.trained:
        verify_folder(place.checkpoint, SMALL)
    if record is None:
        return
    recorded = record["files"]
    names = [name for name in recorded if name not in STATE_FILES]
    kept = [name for name in names if name not in LOGS or there(place.path / name)]
    check_files(place.path, recorded, kept, _remedy(place))
    for state in (place.method_state, place.method_records):
        if there(state) and state.stat().st_size != recorded.get(state.name, {}).get("bytes"):
            raise RunError(f"{state}: not as it was written; {_remedy(place)}")


def checkpoint_fault(run: RunFolder, place: StageFolder) -> str | None:
    """Why the model after a stage cannot be loaded, and what can be done; None when it can.

    An adapter or a delta needs the checkpoint of the stage that it belongs to.
    """
    owner = place
    while owner.trained:
        saved = owner.scored_model if owner == place else owner.checkpoint
        base = recorded_base(owner.checkpoint) or recorded_base(saved)
        if base is None or not base.resolve().is_relative_to(run.path.resolve()):
            return None
        owner = StageFolder(base.resolve().parent)
    with_one = [stage_number(s.path.name) for s in run.stages() if s.trained]
    more = f" (stages with one: {', '.join(map(str, with_one)) or 'none'})"
    if not owner.worth_keeping:
        return f"{owner.path}: not trained yet{more}; `cl-bench run` goes on"
    kept = f"; what was scored stays in {owner.scores_file}" if owner.scored else ""
    lost = owner.missing_file()
    what = f"{lost}: missing, so that" if lost else f"{owner.checkpoint}:"
    return (
        f"{what} the checkpoint is not there any more{_why(owner)}{more}{kept}. `cl-bench run` "
        "makes it again only where a later stage needs it; to have all of them again, run the "
        "config under another name (-o name=NEW)"
    )


DELETED = "deleted.json"
"""In a stage's folder: by which setting its weights were deleted."""


def why_deleted(place: StageFolder) -> str | None:
    """`keep: last` where a stage's checkpoint was deleted by that setting; None where it was not.

    Raises RunError when the record is damaged.
    """
    file = place.path / DELETED
    if place.checkpoint.exists() or not there(file):
        return None
    return f"keep: {read_sealed(file, f'delete {file}', {'keep': str})['keep']}"


def _why(place: StageFolder) -> str:
    found = why_deleted(place)
    return f", deleted by {found}" if found else ""


def _remedy(place: StageFolder) -> str:
    return (
        f"restore it from a copy, or delete {place.checkpoint} and run the same command again: the "
        "stage is trained again where a later one needs it, and its scores are kept"
    )
