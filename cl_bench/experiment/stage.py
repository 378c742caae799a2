"""One stage of one run: load, train, save, score. Each part is skipped when it is on disk."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cl_bench.errors import DivergedError, RunError
from cl_bench.evaluation.curve import stage_curve
from cl_bench.evaluation.engines.opened import Subject, scored_form
from cl_bench.experiment.adapter_base import BaseWeights
from cl_bench.experiment.finite import not_finite, where
from cl_bench.experiment.loop import train_stage
from cl_bench.experiment.memory import advice, enough_memory
from cl_bench.experiment.midway.held import NotSavedError
from cl_bench.experiment.midway.opened import curve_goes_on, open_saves
from cl_bench.experiment.midway.places import drop_midway
from cl_bench.experiment.peak_memory import restart_peak
from cl_bench.experiment.processes import Processes
from cl_bench.experiment.pruned import AGAIN, base_position, finish_again, read_by
from cl_bench.experiment.scoring import Scoring, score_into
from cl_bench.experiment.space import stored_by
from cl_bench.experiment.stage_files import (
    DELETED,
    TRAINING_FILES,
    check_done,
    check_training,
    model_to_score,
    read_failure,
    record_failure,
    record_training,
    scored_basis,
)
from cl_bench.experiment.stage_view import SCRATCH, lost_ends, stage_view
from cl_bench.experiment.workplace import Workplace
from cl_bench.identity.bindings import PARTS
from cl_bench.methods.base import Method, Stage
from cl_bench.methods.spec import RunSpec, StageSpec
from cl_bench.methods.state import State, give_state, handed_on, state_of
from cl_bench.methods.user_files import user_errors
from cl_bench.models.bases import adapter_base
from cl_bench.models.checkpoints import (
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
    write_checkpoint,
)
from cl_bench.models.load import load_model, resolve_model_path, still_there
from cl_bench.scores.matrix import operation_score
from cl_bench.seeds import derive_seed
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import (
    RunFolder,
    StageFolder,
    append_line,
    publish_folder,
    read_json,
    there,
    write_json,
)
from cl_bench.store.partial import drop_partial, scoring_seconds
from cl_bench.store.seals import file_records, read_sealed, write_sealed


@user_errors()
def run_stage(work: Workplace, run: RunSpec, folder: RunFolder, position: int) -> None:
    """Train and score `run.stages[position]` unless its folder says it is done."""
    spec = run.stages[position]
    place = folder.stage(spec.folder)
    label = _label(run, position)
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
    else:
        model, tokenizer = _train(work, run, folder, position)
    if work.first_process:
        subject = model_to_score(place)
        if trained or subject != place.checkpoint:
            model = None  # room for the one that is loaded
            model, tokenizer = load_checkpoint(
                subject, work.config.model.dtype, work.device, adapters=True
            )
        _score(work, spec, place, Subject(model, tokenizer, subject), label)
    work.processes.wait()


def _agreed(processes: Processes, place: StageFolder) -> tuple[bool, bool]:
    """Scored, trained: as the first process sees it, which may be writing by now."""
    seen = processes.agreed(2 * place.scored + place.trained)
    return seen >= 2, seen % 2 == 1


def _label(run: RunSpec, position: int) -> str:
    spec = run.stages[position]
    return f"{run.label}, seed {run.seed}, stage {spec.index}/{len(run.stages)} {spec.name}"


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
        return _train_in(written, work, run, folder, position)
    except NotSavedError as error:
        work.reporter.line(f"{_label(run, position)}: {error}: the stage begins again")
    if work.first_process:
        drop_midway(written)
    work.processes.wait()
    return _train_in(written, work, run, folder, position)


def _train_in(
    written: Path, work: Workplace, run: RunSpec, folder: RunFolder, position: int
) -> tuple[Any, Any]:
    """Raises NotSavedError where what an interrupted training saved cannot be used."""
    spec, label = run.stages[position], _label(run, position)
    place = folder.stage(spec.folder)
    beside = written != place.path
    own_peak = restart_peak()
    saves, passes, logged = open_saves(work, run, folder, position, written)
    method = spec.build_method()
    model, tokenizer, base, state = _start(work, run, folder, position)
    give_state(method, state)
    under = BaseWeights(spec, model)
    seed_everything(derive_seed(run.seed, spec.index, "training", work.processes.rank))
    scratch = written / SCRATCH
    stage, batcher = stage_view(work, run, folder, position, model, tokenizer, scratch)
    curve = stage_curve(
        *(work.config.eval.within_stage, work.suite, spec, written, tokenizer, work.reporter),
        writes=work.first_process,
    )
    curve_goes_on(work, curve, written)
    saves.apart, stage.passed = curve, passes.passed
    work.reporter.begin(label)

    def on_step(record: dict[str, Any], total: int) -> None:
        if work.first_process and record["step"] > logged:
            append_line(written / "train.jsonl", record)
        work.reporter.step(record, total)

    def say(line: str) -> None:
        work.reporter.line(f"{label}: {line}")

    try:
        with enough_memory(where(stage), advice(spec.train)):
            train_stage(stage, method, batcher, on_step, curve, saves, say)
        own = state_of(method)
        _check_state(stage, method, own)
    except DivergedError as error:
        if work.first_process:
            drop_midway(written)
        if work.first_process and not beside:
            record_failure(place, spec.index, list(spec.tasks), error)
        raise
    if work.first_process and "dead" in stage.notes:
        work.reporter.line(f"{label}: {stage.notes['dead']}")
    if spec.train.gradient_checkpointing:
        model.gradient_checkpointing_disable()
    trained = saves.spent()
    under.check(stage.model)
    # Written before `scored` may put other weights into the model, named when all else is there.
    temporary = (
        write_checkpoint(stage.model, tokenizer, place.checkpoint, base)
        if work.first_process
        else None
    )
    scored = _save_scored(work, stage, method, spec, tokenizer, place, base)
    work.processes.wait()
    if temporary is not None:
        shutil.rmtree(scratch, ignore_errors=True)
        left = handed_on(method, state, own)
        save_tensors(StageFolder(written).method_state, left.tensors)
        if left.records:
            write_json(StageFolder(written).method_records, left.records)
        save_tensors(StageFolder(written).selection_file, stage.selection)
        stage.notes.update(lost_ends(stage, batcher.encode) | _other_parts(folder, spec, position))
        write_json(written / "notes.json", stage.notes)
        within = 0.0 if curve is None else curve.seconds
        timing = {
            "train_seconds": round(trained - within, 2),
            "curve_seconds": round(within, 2),
            "peak_memory_mb": saves.peak(),
            "peak_of": "stage" if own_peak else "process",
            "processes": work.processes.world,
        }
        write_sealed(written / "timing.json", timing)

        def ready(fingerprint: str) -> None:
            if not beside:
                files = file_records(written, TRAINING_FILES)
                record_training(place, fingerprint, scored, files)
            elif fault := finish_again(place, fingerprint, scored):
                work.reporter.line(f"{label}: {fault}")

        publish_folder(
            temporary, place.checkpoint, ready, stored_by(work.config, base, place.checkpoint)
        )
        drop_midway(written)
        (place.path / DELETED).unlink(missing_ok=True)
    work.processes.wait()
    return stage.model, tokenizer


def _other_parts(folder: RunFolder, spec: StageSpec, position: int) -> dict[str, Any]:
    """Where updates were computed in other parts than the run was begun with: those settings."""
    begun = read_run(folder.path / "run.json")["config"]["stages"][position]["train"]
    now = spec.train.model_dump(mode="json")
    changed = {key: now[key] for key in PARTS if begun.get(key, now[key]) != now[key]}
    return {"trained_with": changed} if changed else {}


def _save_scored(
    work: Workplace,
    stage: Stage,
    method: Method,
    spec: StageSpec,
    tokenizer: Any,
    place: StageFolder,
    base: str,
) -> str | None:
    """Save the model that is scored where it is another one; returns its checksum."""
    if not spec.scores_another:
        return None
    found: list[str] = []
    with method.scored(stage) as model:
        weights = dict(model.named_parameters())
        wrong = {n: w for n, w in weights.items() if not bool((w.isfinite() | w.isneginf()).all())}
        if names := not_finite(wrong):
            raise RunError(
                f"method {method.name}: of the model that it gives to be scored {names} not finite"
            )
        if work.first_process:
            shrink = stored_by(work.config, base, place.scored_model)
            save_checkpoint(model, tokenizer, place.scored_model, base, found.append, shrink)
    return found[0] if found else None


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


def _start(
    work: Workplace, run: RunSpec, folder: RunFolder, position: int
) -> tuple[Any, Any, str, State]:
    """Model, tokenizer, what an adapter's base would be, and what methods kept."""
    spec, dtype = run.stages[position], work.config.model.dtype
    if position == 0 or spec.start == "base":
        path = work.config.model.source
        with still_there():
            model, tokenizer = load_model(resolve_model_path(path), dtype, str(work.device))
        return model, tokenizer, path, State()
    before = folder.stage(run.stages[position - 1].folder)
    model, tokenizer = load_checkpoint(before.checkpoint, dtype, work.device, spec.adapters)
    base = (adapter_base(before.checkpoint) if spec.adapters else None) or str(before.checkpoint)
    records = before.method_records
    kept = read_json(records) if there(records) else {}
    return model, tokenizer, base, State(load_tensors(before.method_state), kept)


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
    scoring = Scoring(subject, units, basis, reference)
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


def _check_state(stage: Stage, method: Method, state: State) -> None:
    """Raises DivergedError where what the method hands to later stages is not finite.

    RunError where its records cannot be written.
    """
    tensors = {name: v for name, v in state.tensors.items() if v.is_floating_point()}
    if names := not_finite(tensors):
        what = f"diverged: of the method's state {names} not finite"
        raise DivergedError(f"stage {stage.index} ({stage.task})", what)
    try:
        json.dumps(dict(state.records), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"method {method.name}: state: records must be JSON values (texts, numbers, lists, "
            f"objects with texts as keys): {error}"
        ) from error


def seed_everything(seed: int) -> None:
    """Global generators (dropout, library code); everything of ours has its own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
