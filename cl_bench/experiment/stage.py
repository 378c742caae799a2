"""One stage of one run: load, train, save, score. Each part is skipped when it is on disk."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cl_bench.config.schema import ExperimentConfig
from cl_bench.data.examples import Example
from cl_bench.data.tokens import encode_examples, pad_id, padding
from cl_bench.errors import DivergedError
from cl_bench.evaluation.curve import Curve, stage_curve
from cl_bench.evaluation.engines.opened import Subject, scored_form
from cl_bench.evaluation.suite import Suite, cells_to_score, general_after, scored_tasks
from cl_bench.experiment.loop import Batcher, not_finite, train_stage
from cl_bench.experiment.peak_memory import peak_memory_mb
from cl_bench.experiment.processes import Processes
from cl_bench.experiment.pruned import AGAIN, base_position, finish_again
from cl_bench.experiment.stage_files import (
    check_done,
    check_training,
    read_failure,
    record_failure,
    record_training,
)
from cl_bench.methods.base import Method, Stage
from cl_bench.methods.compose import Composite
from cl_bench.methods.spec import RunSpec, StageSpec
from cl_bench.models.checkpoints import (
    adapter_base,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from cl_bench.models.load import load_model, resolve_model_path
from cl_bench.models.positions import length_groups
from cl_bench.progress import Reporter
from cl_bench.scores.matrix import general_mean, operation_score
from cl_bench.seeds import derive_seed
from cl_bench.store.folders import RunFolder, StageFolder, append_line, read_json, there, write_json
from cl_bench.store.partial import drop_partial, finish_scores, scoring_seconds
from cl_bench.store.seals import read_sealed, write_sealed


@dataclass(frozen=True)
class Workplace:
    """What all stages of an experiment share."""

    config: ExperimentConfig
    suite: Suite
    examples: Mapping[tuple[str, int], Sequence[Example]]
    """Training examples by (task, seed)."""
    device: torch.device
    processes: Processes
    reporter: Reporter

    @property
    def first_process(self) -> bool:
        """Only this one writes files and scores."""
        return self.processes.rank == 0


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
        return
    if work.processes.agreed(there(place.failure_file)):
        failure = read_failure(place)
        raise DivergedError(f"stage {spec.index} ({spec.tasks[0]})", failure["what"])
    if trained:
        _check_training(work, place)
        _restore_base(work, run, folder, position)
        model, tokenizer = load_checkpoint(
            place.checkpoint, work.config.model.dtype, work.device, adapters=True
        )
    else:
        model, tokenizer = _train(work, run, folder, position)
    if work.first_process:
        _score(work, spec, place, model, tokenizer, label)
    work.processes.wait()


def _agreed(processes: Processes, place: StageFolder) -> tuple[bool, bool]:
    """Scored, trained: as the first process sees it, which may be writing by now."""
    seen = processes.agreed(2 * place.scored + place.trained)
    return seen >= 2, seen % 2 == 1


def _label(run: RunSpec, position: int) -> str:
    spec = run.stages[position]
    return f"{run.label}, seed {run.seed}, stage {spec.index}/{len(run.stages)} {spec.tasks[0]}"


def _train(work: Workplace, run: RunSpec, folder: RunFolder, position: int) -> tuple[Any, Any]:
    """Train a stage; one that was trained before, whose checkpoint is gone, beside what it left."""
    spec, label = run.stages[position], _label(run, position)
    place = folder.stage(spec.folder)
    if position and spec.start != "base":
        _restore(work, run, folder, position - 1)
    beside = work.processes.agreed(place.worth_keeping) == 1
    written = place.path / AGAIN if beside else place.path
    if work.first_process:
        StageFolder(written).restart()
    work.processes.wait()
    began = time.perf_counter()
    method = spec.build_method()
    model, tokenizer, base, state = _start(work, run, folder, position)
    _load_states(method, state)
    seed_everything(derive_seed(run.seed, spec.index, "training", work.processes.rank))
    stage, batcher = _stage(work, run, position, model, tokenizer)
    curve = _curve(work, spec, written, stage, tokenizer)
    work.reporter.begin(label)

    def on_step(record: dict[str, Any], total: int) -> None:
        if work.first_process:
            append_line(written / "train.jsonl", record)
        work.reporter.step(record, total)

    try:
        train_stage(stage, method, spec.epochs, batcher, on_step, curve)
        _check_states(stage, method)
    except DivergedError as error:
        if work.first_process and not beside:
            record_failure(place, spec.index, list(spec.tasks), error)
        raise
    if work.first_process and "dead" in stage.notes:
        work.reporter.line(f"{label}: {stage.notes['dead']}")
    if spec.train.gradient_checkpointing:
        model.gradient_checkpointing_disable()
    trained = time.perf_counter()
    if work.first_process:
        save_tensors(StageFolder(written).method_state, _next_states(method, state))
        stage.notes.update(_lost_ends(stage, batcher.encode))
        write_json(written / "notes.json", stage.notes)
        within = 0.0 if curve is None else curve.seconds
        timing = {
            "train_seconds": round(trained - began - within, 2),
            "curve_seconds": round(within, 2),
            "peak_memory_mb": peak_memory_mb(),
            "processes": work.processes.world,
        }
        write_sealed(written / "timing.json", timing)

        def ready(fingerprint: str) -> None:
            if not beside:
                record_training(place, written, fingerprint)
            elif fault := finish_again(place, fingerprint):
                work.reporter.line(f"{label}: {fault}")

        save_checkpoint(stage.model, tokenizer, place.checkpoint, base, ready)
    work.processes.wait()
    return stage.model, tokenizer


def _restore(work: Workplace, run: RunSpec, folder: RunFolder, position: int) -> None:
    """Have the checkpoint after a stage, and what belongs to it, where it is needed."""
    place = folder.stage(run.stages[position].folder)
    if _agreed(work.processes, place)[1]:
        _restore_base(work, run, folder, position)
    else:
        _train(work, run, folder, position)
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
) -> tuple[Any, Any, str, dict[str, Any]]:
    """Model, tokenizer, what an adapter's base would be, and the methods' kept tensors."""
    spec, dtype = run.stages[position], work.config.model.dtype
    if position == 0 or spec.start == "base":
        path = work.config.model.source
        model, tokenizer = load_model(resolve_model_path(path), dtype, str(work.device))
        return model, tokenizer, path, {}
    before = folder.stage(run.stages[position - 1].folder)
    model, tokenizer = load_checkpoint(before.checkpoint, dtype, work.device, spec.adapters)
    base = (adapter_base(before.checkpoint) if spec.adapters else None) or str(before.checkpoint)
    return model, tokenizer, base, load_tensors(before.method_state)


def _stage(
    work: Workplace, run: RunSpec, position: int, model: Any, tokenizer: Any
) -> tuple[Stage, Batcher]:
    spec = run.stages[position]
    train = spec.train
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def encode(examples: Sequence[Example]) -> Any:
        return encode_examples(
            examples,
            tokenizer,
            train.max_prompt_tokens,
            train.max_answer_tokens,
            train.truncation,
        )

    batcher = Batcher(
        encode,
        pad_id(tokenizer),
        padding(train.truncation),
        work.device,
        work.processes,
        length_groups(model.config, padding(train.truncation).get("multiple_of", 1)),
    )
    stage = Stage(
        index=spec.index,
        task=spec.tasks[0],
        seed=run.seed,
        train=train,
        model=model,
        examples=[e for task in spec.tasks for e in work.examples[task, run.seed]],
        earlier=[
            (task, work.examples[task, run.seed])
            for before in run.stages[:position]
            for task in before.tasks
        ],
        device=work.device,
        batches=lambda examples: batcher.share(train, examples),
        all_reduce=work.processes.all_reduce,
    )
    return stage, batcher


def _lost_ends(stage: Stage, encode: Callable[[Sequence[Example]], Any]) -> dict[str, Any]:
    """Answers that were cut, and so trained without their end; nothing where there are none."""
    lost = sum(one.truncated_answer_tokens > 0 for one in encode(stage.examples))
    if not lost:
        return {}
    limit = stage.train.max_answer_tokens
    found = {"answers": lost, "of": len(stage.examples), "max_answer_tokens": limit}
    return {"answers_without_end": found}


def _curve(
    work: Workplace, spec: StageSpec, folder: Path, stage: Stage, tokenizer: Any
) -> Curve | None:
    """Scores while the stage is trained, by the first process."""
    if not work.first_process:
        return None
    return stage_curve(
        work.config,
        work.suite,
        spec.index,
        spec.train,
        folder,
        stage.model,
        tokenizer,
        work.reporter,
    )


def _score(
    work: Workplace,
    spec: StageSpec,
    place: StageFolder,
    model: Any,
    tokenizer: Any,
    label: str,
) -> None:
    """Score the stage's cells and General; `scores.json` is written last."""
    work.reporter.scoring(label)
    names = cells_to_score(work.config, spec.index, spec.tasks)
    units = work.suite.units(names, general_after(work.config, spec.index), spec.train)
    basis = {"checkpoint": place.fingerprint()}
    reference = work.suite.reference(place.base / "kl")
    subject = Subject(model, tokenizer, place.checkpoint)
    scores = work.suite.score(subject, units, place.path, basis, work.reporter, reference)
    timing_file = place.path / "timing.json"
    timing = read_sealed(timing_file, "delete it") if there(timing_file) else {}
    timing["score_seconds"] = round(scoring_seconds(place.path), 2)
    write_sealed(timing_file, timing)
    seen = scored_tasks(work.config, spec.index)
    finish_scores(
        place.path,
        {
            "stage": spec.index,
            "task": spec.tasks[0] if len(spec.tasks) == 1 else list(spec.tasks),
            "trace": scores["trace"],
            "general": {**scores["general"], "mean": general_mean(scores["general"])},
            "probes": scores["probes"],
            "op": operation_score(scores["trace"], seen),
            "notes": read_json(place.path / "notes.json"),
            "engine": str(work.suite.engine),
            **basis,
            **scored_form(model, work.suite.engine),
        },
    )


def _parts(method: Method) -> list[Method]:
    return method.parts if isinstance(method, Composite) else [method]


def _states(method: Method) -> dict[str, Any]:
    """Every part's tensors, keyed `method/key`, so that stages of other methods pass them on."""
    return {
        f"{part.name}/{key}": value
        for part in _parts(method)
        for key, value in part.state_dict().items()
    }


def _check_states(stage: Stage, method: Method) -> None:
    """Raises DivergedError where what the method hands to later stages is not finite."""
    tensors = {name: value for name, value in _states(method).items() if value.is_floating_point()}
    if names := not_finite(tensors):
        what = f"diverged: of the method's state {names} not finite"
        raise DivergedError(f"stage {stage.index} ({stage.task})", what)


def _next_states(method: Method, before: Mapping[str, Any]) -> dict[str, Any]:
    """What the stage leaves: states of its methods replace theirs, those of others pass through."""
    own = tuple(f"{part.name}/" for part in _parts(method))
    others = {key: value for key, value in before.items() if not key.startswith(own)}
    return others | _states(method)


def _load_states(method: Method, state: Mapping[str, Any]) -> None:
    for part in _parts(method):
        prefix = f"{part.name}/"
        own = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        if own:
            part.load_state_dict(own)


def seed_everything(seed: int) -> None:
    """Global generators (dropout, library code); everything of ours has its own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
