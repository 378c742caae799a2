"""What a stage that begins finds of an interrupted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cl_bench.config.intervals import seconds_of, updates_of
from cl_bench.evaluation.curve import CURVE, Curve
from cl_bench.experiment.midway.pace import Every, Pace
from cl_bench.experiment.midway.passes import Passes
from cl_bench.experiment.midway.places import Places
from cl_bench.experiment.midway.saves import Saves
from cl_bench.experiment.workplace import Workplace
from cl_bench.identity.bindings import settings_checksum
from cl_bench.methods.spec import RunSpec
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import RunFolder, read_records, sha256_of, there
from cl_bench.store.provenance import provenance


def open_saves(
    work: Workplace, run: RunSpec, folder: RunFolder, position: int, written: Path
) -> tuple[Saves, Passes, int]:
    """What the stage in `written` goes on from, and how many of its updates are in its log.

    Everything else there is removed: what an interrupted training left half-written, and what
    belongs to other settings, data, versions or another start.
    """
    every = Every(seconds_of(work.config.save_every), updates_of(work.config.save_every))
    places = Places(written, work.processes, work.reporter.line)
    belongs = _belongs(work, run, folder, position) if work.first_process else {}
    reached = places.open(belongs)
    work.stops.killed |= places.killed
    pace = Pace(every, work.stops.killed)
    saves = Saves(places, belongs, pace, work.stops, work.device)
    return saves, Passes(places, belongs, pace, work.stops, work.device), reached


def curve_goes_on(work: Workplace, curve: Curve | None, written: Path) -> None:
    """Tell a curve which of its points are there."""
    if curve is not None:
        file = written / CURVE
        points = read_records(file) if work.first_process and there(file) else []
        last = max((int(point["step"]) for point in points), default=-1)
        curve.scored = work.processes.agreed(last + 1) - 1


def _belongs(work: Workplace, run: RunSpec, folder: RunFolder, position: int) -> dict[str, Any]:
    """What the bits of a stage in training depend on."""
    record, made_by = read_run(folder.path / "run.json"), provenance()
    settings = {**record["config"], "stages": record["config"]["stages"][: position + 1]}
    start = "base"
    if position and run.stages[position].start != "base":
        start = folder.stage(run.stages[position - 1].folder).fingerprint()
    return {
        "settings": settings_checksum(settings),
        "data": sha256_of([record.get("inputs"), record.get("data")]),
        "start": start,
        "versions": {"cl_bench": made_by["cl_bench"], **made_by["packages"]},
        "processes": work.processes.world,
    }
