"""One stage of one run: load, train, save, score. Each part is skipped when it is on disk."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from cl_bench.errors import DivergedError
from cl_bench.evaluation.crew import help_first, helped
from cl_bench.evaluation.engines.opened import Subject, scored_form
from cl_bench.evaluation.units import help_answer
from cl_bench.experiment.midway.held import NotSavedError
from cl_bench.experiment.midway.places import drop_midway
from cl_bench.experiment.processes import Processes
from cl_bench.experiment.pruned import AGAIN, base_position, read_by
from cl_bench.experiment.scoring import Scoring, score_into
from cl_bench.experiment.stage_files import (
    check_done,
    check_training,
    model_to_score,
    read_failure,
    scored_basis,
)
from cl_bench.experiment.stage_training import Training, label_of
from cl_bench.experiment.workplace import Workplace
from cl_bench.methods.spec import RunSpec, StageSpec
from cl_bench.methods.user_files import user_errors
from cl_bench.models.checkpoints import load_checkpoint
from cl_bench.scores.matrix import operation_score
from cl_bench.store.folders import (
    RunFolder,
    StageFolder,
    read_json,
    there,
)
from cl_bench.store.partial import drop_partial, scoring_seconds
from cl_bench.store.seals import read_sealed, write_sealed


@user_errors()
def run_stage(work: Workplace, run: RunSpec, folder: RunFolder, position: int) -> None:
    """Train and score `run.stages[position]` unless its folder says it is done."""
    spec = run.stages[position]
    place = folder.stage(spec.folder)
    label = label_of(run, position)
    done, trained = _agreed(work.processes, place)
    if done:
        if work.first_process:
            check_done(place)
            drop_partial(place.path)
            drop_midway(place.path)
        return
    if work.processes.agreed(there(place.failure_file)):
        failure = read_failure(place)
        raise DivergedError(f"stage {spec.index} ({spec.name})", failure["what"])
    if trained:
        if work.first_process:
            drop_midway(place.path)
        _check_training(work, place)
        _restore_base(work, run, folder, position)
        kept = None
    else:
        kept = _train(work, run, folder, position)
    path = model_to_score(place)
    split = spec.train.splits(work.processes.world)
    if trained or split or path != place.checkpoint:
        kept = None  # room for the one that is loaded

    @cache
    def load() -> tuple[Any, Any]:
        return kept or load_checkpoint(path, work.config.model.dtype, work.device, adapters=True)

    if work.first_process:
        with helped(work.processes):
            _score(work, spec, place, Subject(*load(), path), label)
    else:
        help_first(work.processes, lambda: help_answer(load, work.processes))
    work.processes.wait()


def _agreed(processes: Processes, place: StageFolder) -> tuple[bool, bool]:
    """Scored, trained: as the first process sees it, which may be writing by now."""
    seen = processes.agreed(2 * place.scored + place.trained)
    return seen >= 2, seen % 2 == 1


def _train(work: Workplace, run: RunSpec, folder: RunFolder, position: int) -> tuple[Any, Any]:
    """Train a stage; one that was trained before, whose checkpoint is gone, beside what it left."""
    spec = run.stages[position]
    place = folder.stage(spec.folder)
    for earlier in read_by(run.stages, position):
        begins = earlier == position - 1 and spec.start != "base"
        _restore(work, run, folder, earlier, begins)
    beside = work.processes.agreed(place.worth_keeping) == 1
    written = place.path / AGAIN if beside else place.path
    try:
        return Training(work, run, folder, position, written).train()
    except NotSavedError as error:
        work.reporter.line(f"{label_of(run, position)}: {error}: the stage begins again")
    if work.first_process:
        drop_midway(written)
    work.processes.wait()
    return Training(work, run, folder, position, written).train()


def _restore(
    work: Workplace, run: RunSpec, folder: RunFolder, position: int, state: bool = True
) -> None:
    """Have the checkpoint after a stage, and what belongs to it, where it is needed.

    `state`: also what its method kept.
    """
    place = folder.stage(run.stages[position].folder)
    if _agreed(work.processes, place)[1]:
        _restore_base(work, run, folder, position)
    else:
        _train(work, run, folder, position)
    if state:
        _check_training(work, place)


def _check_training(work: Workplace, place: StageFolder) -> None:
    if line := check_training(place):
        work.reporter.once(line)


def _restore_base(work: Workplace, run: RunSpec, folder: RunFolder, position: int) -> None:
    """The same for the model that a stage's adapter belongs to."""
    base = base_position(folder, run.stages, position)
    if base is not None:
        _restore(work, run, folder, base)


def _score(
    work: Workplace,
    spec: StageSpec,
    place: StageFolder,
    subject: Subject,
    label: str,
) -> None:
    """Score the stage's cells and General; `scores.json` is written last."""
    work.reporter.scoring(label)
    suite, basis = work.suite, scored_basis(place)
    units = suite.units(spec.scored.columns, spec.scored.general, spec.train)
    reference = suite.reference(place.base / "kl")
    scoring = Scoring(subject, units, basis, reference, work.processes)
    about = {"stage": spec.index, "task": spec.name if len(spec.tasks) == 1 else list(spec.tasks)}

    def rest(scores: Mapping[str, Any]) -> dict[str, Any]:
        _add_scoring_time(place)
        return {
            "op": operation_score(scores["trace"], spec.scored.seen),
            "notes": read_json(place.path / "notes.json"),
            "engine": str(suite.engine),
            **basis,
            **scored_form(subject.model, suite.engine),
        }

    score_into(place.path, scoring, suite, work.reporter, about, rest)


def _add_scoring_time(place: StageFolder) -> None:
    file = place.path / "timing.json"
    timing = read_sealed(file, "delete it") if there(file) else {}
    timing["score_seconds"] = round(scoring_seconds(place.path), 2)
    write_sealed(file, timing)
