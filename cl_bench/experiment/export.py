"""`cl-bench export`: the model after a stage as an ordinary folder, whatever it is stored as."""

from __future__ import annotations

import shutil
from pathlib import Path

from cl_bench.errors import UserError
from cl_bench.experiment.stage_files import check_training, checkpoint_fault, model_to_score
from cl_bench.models.bases import adapter_base
from cl_bench.models.deltas import write_whole
from cl_bench.store.folders import RunFolder, stage_number, verify_folder


def export(run: RunFolder, stage: int | None, target: Path) -> tuple[int, str | None]:
    """Write the model that a stage's scores are of (default: of the last one) into a new folder.

    A whole model as transformers reads it, or an adapter as PEFT does; every byte is checked before
    `target` has its name. Returns the stage's number, and what an adapter belongs to. Raises
    UserError where there is no such stage or its weights are gone, and where `target` exists;
    RunError where they are damaged.
    """
    if target.exists():
        raise UserError(f"{target}: exists already; name a new folder")
    places = {stage_number(one.path.name): one for one in run.stages()}
    if stage is None and places:
        stage = max(places)
    if stage is None or stage not in places:
        raise UserError(f"{run.path}: no stage {stage or 1} here yet (there: {sorted(places)})")
    place = places[stage]
    if fault := checkpoint_fault(run, place):
        raise UserError(fault)
    check_training(place)
    saved = model_to_score(place)
    verify_folder(saved)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_whole(saved, temporary)
    temporary.replace(target)
    return stage, adapter_base(saved)
