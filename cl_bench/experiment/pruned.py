"""Which checkpoints are needed and are not there any more: those stages are trained again.

Beside their scores: nothing that a stage holds is deleted for it. A checkpoint is needed where the
next stage is not trained yet, or one that reads its weights, or where a later adapter or delta
belongs to it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl_bench.experiment.stage_files import STATE_FILES, TRAINING_FILES, record_training
from cl_bench.methods.spec import StageSpec
from cl_bench.models.bases import recorded_base
from cl_bench.store.folders import RunFolder, StageFolder, read_records, there
from cl_bench.store.seals import file_records, read_scores, write_sealed

AGAIN = ".again"
"""In a stage's folder, where a second training writes what the first has written already."""
RETRAINED = "retrained.json"


def to_train_again(folder: RunFolder, stages: Sequence[StageSpec]) -> list[int]:
    """Positions of the stages whose training was finished once and has to be repeated."""
    places = [folder.stage(stage.folder) for stage in stages]
    again: set[int] = set()

    def needed(position: int) -> None:
        place = places[position]
        if place.trained:
            if (base := base_position(folder, stages, position)) is not None:
                needed(base)
        elif position not in again:
            if place.worth_keeping:
                again.add(position)
            begun_from(position)

    def begun_from(position: int) -> None:
        for earlier in read_by(stages, position):
            needed(earlier)

    for position, place in enumerate(places):
        if not place.scored:
            needed(position)
    return sorted(again)


def announcements(folder: RunFolder, stages: Sequence[StageSpec]) -> list[str]:
    """A line for every stage that is trained again, before anything starts."""
    return [
        f"stage {stages[i].index} ({stages[i].name}): its checkpoint is not there any more and "
        "a later stage needs it: it is trained again, and its scores are kept"
        for i in to_train_again(folder, stages)
    ]


def base_position(folder: RunFolder, stages: Sequence[StageSpec], position: int) -> int | None:
    """The earlier stage whose checkpoint what this one saved belongs to; None: to no stage's.

    An adapter does, and what is stored as a delta: the checkpoint, or the model that is scored.
    """
    place = folder.stage(stages[position].folder)
    found = [recorded_base(saved) for saved in (place.checkpoint, place.scored_model)]
    bases = {base.resolve() for base in found if base is not None}
    for earlier, stage in enumerate(stages[:position]):
        if folder.stage(stage.folder).checkpoint.resolve() in bases:
            return earlier
    return None


def read_by(stages: Sequence[StageSpec], position: int) -> list[int]:
    """Positions of the stages whose weights a stage begins with or reads, in order."""
    stage = stages[position]
    numbers = set(stage.build_method().earlier_weights(stage))
    return [
        earlier
        for earlier, one in enumerate(stages[:position])
        if one.index in numbers or (earlier == position - 1 and stage.start != "base")
    ]


def finish_again(place: StageFolder, fingerprint: str, scored: str | None) -> str | None:
    """Before the second checkpoint is renamed into place: what else it needs to have in place.

    Where the stage is scored its records stay, and a checkpoint that is not the one which was
    scored is noted in `retrained.json`; returns that as a sentence, None when all is equal.
    """
    written = place.path / AGAIN
    before, scored_before = _recorded(place)
    fault = None
    moved: Sequence[str]
    if place.scored:
        moved = TRAINING_FILES
        if (before, scored_before) != (fingerprint, scored):
            moved = STATE_FILES
            fault = _difference(place, written, before, fingerprint)
            logs = [name for name in TRAINING_FILES if name not in STATE_FILES]
            files = file_records(place.path, logs) | file_records(written, STATE_FILES)
            record_training(place, fingerprint, scored, files)
        else:
            (place.path / RETRAINED).unlink(missing_ok=True)
    else:
        record_training(place, fingerprint, scored, file_records(written, TRAINING_FILES))
        moved = (*TRAINING_FILES, "timing.json")
    for name in moved:
        if there(written / name):
            (written / name).replace(place.path / name)
        else:
            (place.path / name).unlink(missing_ok=True)
    shutil.rmtree(written)
    return fault


def _recorded(place: StageFolder) -> tuple[str | None, str | None]:
    """Checksums of the checkpoint and of the model of its own that the stage's scores are of.

    None where they do not say, and where no other model than the checkpoint was scored.
    """
    known = read_scores(place.path) if place.scored else {}
    return known.get("checkpoint"), known.get("scored")


def _difference(place: StageFolder, written: Path, before: str | None, now: str) -> str | None:
    old, new = (_losses(folder / "train.jsonl") for folder in (place.path, written))
    first = next(
        (i for i, pair in enumerate(zip(old, new, strict=False), 1) if pair[0] != pair[1]), None
    )
    if first is None and len(old) != len(new):
        first = min(len(old), len(new)) + 1
    same = first is None and bool(old)
    if same:
        how = "every recorded update is the same"
    else:
        how = f"the updates differ from number {first} on" if first else "the first log is not here"
    what = (
        "trained again after it was scored, and not recorded which checkpoint was scored"
        if before is None
        else "trained again after it was scored, to another checkpoint than was scored"
    )
    if before is None and same:
        return None
    text = f"{what} ({how}); later stages begin from the new one"
    write_sealed(place.path / RETRAINED, {"scored": before, "checkpoint": now, "what": text})
    return text


def _losses(file: Path) -> list[Any]:
    return read_records(file) if there(file) else []
