"""`cl-bench eval`: score a stage's checkpoint again, beside the run's own results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cl_bench.config.schema import ExperimentConfig, TrainConfig, slug
from cl_bench.config.stages import PLACES
from cl_bench.data.definitions import definition
from cl_bench.data.tasks import canonical_name
from cl_bench.errors import UserError
from cl_bench.evaluation.asked import chosen_documents
from cl_bench.evaluation.code.humaneval import sandbox_warnings
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.opened import Subject, scored_form
from cl_bench.evaluation.headline import headline_faults
from cl_bench.evaluation.suite import Suite, load_suite
from cl_bench.evaluation.units import Unit
from cl_bench.experiment.resolve import resolve_tasks
from cl_bench.experiment.scoring import Scoring, score_into
from cl_bench.experiment.stage_files import (
    check_training,
    checkpoint_fault,
    model_to_score,
    scored_basis,
)
from cl_bench.identity.bindings import Contents, of_record, recorded, scored_data
from cl_bench.identity.differences import data_differences, definition_differences
from cl_bench.methods.spec import Experiment
from cl_bench.models.checkpoints import load_checkpoint
from cl_bench.models.load import usable_device
from cl_bench.progress import Reporter
from cl_bench.resources import absolute
from cl_bench.scores.sequence import Recorded, learned
from cl_bench.store.experiments import (
    EXPERIMENT,
    RUN,
    find_runs,
    lost_runs,
    read_experiment,
    read_run,
)
from cl_bench.store.folders import (
    RunFolder,
    StageFolder,
    located,
    locked,
    sha256_of,
    stage_number,
    there,
)
from cl_bench.store.partial import drop_partial
from cl_bench.training.cpu.heap import keep_freed_memory

GENERAL = "general"
"""What `--task` calls all benchmarks of a run."""


@dataclass(frozen=True)
class Selection:
    """What `cl-bench eval` was asked to score, and how."""

    stage: int
    method: str | None
    seed: int | None
    tasks: tuple[str, ...]
    limit: int | None
    engine: Engine
    data_root: Path | None
    allow_code: bool = False
    device: str | None = None
    """None: the first GPU, or the CPU."""


def rescore(folder: Path, selection: Selection, reporter: Reporter) -> list[Path]:
    """Write `evals/<id>/scores.json` in the stage folder of every selected run; returns them.

    The id is fixed by what is scored and all that it depends on: what is there already is not
    scored again, and an interrupted scoring goes on. Raises UserError when the stage was not
    trained. `folder` is the experiment's.
    """
    original = recorded_experiment(folder, selection.data_root)
    experiment = _narrow(original, selection)
    suite = load_suite(experiment, selection.engine, selection.allow_code)
    for warning in sandbox_warnings(suite.leaves):
        reporter.line(warning)
    if unscorable := list(headline_faults(suite.scored.values())):
        raise UserError(unscorable)
    runs = _runs(folder, selection)
    columns = {
        run: found for run in runs if (found := _columns(run, original, selection)) is not None
    }
    for run in runs:
        if run not in columns and columns:
            reporter.line(f"{run.path}: left out: it has no stage {selection.stage}")
    if not columns:
        raise UserError(
            [_no_stage(run, selection) for run in runs]
            or f"{folder}: holds no runs, and so no stages: only the base model is scored here"
        )
    asked = {name for _, names in columns.values() for name in names}
    wanted = [name for name in original.columns if name in asked]
    now = _contents(original, suite, wanted)
    others = _other_rows(folder, list(columns), now, selection)
    for line in others:
        reporter.line(f"{line}: scored and recorded as such")
    probes = original.config.eval.probes is not None
    jobs = (_job(run, suite, *found, selection, probes) for run, found in columns.items())
    with suite.kept:
        return [_score_run(job, suite, selection, reporter, others) for job in jobs]


def _runs(experiment: Path, selection: Selection) -> list[RunFolder]:
    """The selected ones. Raises UserError where one has lost the record that it is bound to."""
    lost = [
        folder
        for folder in lost_runs(experiment)
        if selection.method is None or folder.parent.name == slug(selection.method)
        if selection.seed is None or folder.name == f"seed-{selection.seed}"
    ]
    if lost:
        raise UserError([f"{folder / RUN}: missing; restore it from a copy" for folder in lost])
    return find_runs(experiment, selection.method, selection.seed)


def _columns(
    run: RunFolder, original: Experiment, selection: Selection
) -> tuple[Recorded, list[str]] | None:
    """The stage, and the stage tasks that are scored: those asked for, else what it has learned.

    None where the run has no such stage, and never will.
    """
    stages = Recorded.all_of(read_run(run.path / "run.json", whole=True)["config"])
    position = next((i for i, one in enumerate(stages) if one.index == selection.stage), None)
    if position is None:
        return None
    benchmarks = original.config.eval.general.tasks
    chosen = chosen_tasks(selection.tasks, benchmarks) or learned(stages, position)
    return stages[position], [name for name in original.columns if name in chosen]


def _no_stage(run: RunFolder, selection: Selection) -> str:
    found = [stage_number(s.path.name) for s in run.stages()]
    return f"{run.path}: no stage {selection.stage} here yet (there: {found})"


def _contents(original: Experiment, suite: Suite, stage_names: Sequence[str]) -> Contents:
    """Of what is scored: the rows that the run's own limits choose, whatever `--limit` says."""
    stages = {name: suite.stage_tasks[name] for name in stage_names}
    wanted = set(original.config.eval.general.tasks)
    general = {name: members for name, members in suite.general.items() if name in wanted}
    documents = chosen_documents(original, stages, general)
    tasks = {name: definition({name: task}) for name, task in stages.items()}
    tasks |= {name: definition(members) for name, members in suite.general.items()}
    return {"tasks": tasks, "data": scored_data(suite.leaves, documents)}


def _other_rows(
    experiment: Path, runs: Sequence[RunFolder], now: Contents, selection: Selection
) -> list[str]:
    """Lines about rows that differ from the runs', which an explicit `--data-root` may.

    Raises UserError for task definitions that differ, and for rows without that option.
    """
    faults: dict[str, None] = {}
    rows: dict[str, None] = {}
    for run in runs:
        record = of_record(read_run(run.path / "run.json"))
        faults |= dict.fromkeys(definition_differences(record, now))
        rows |= dict.fromkeys(data_differences(record, now))
    if selection.data_root is None:
        faults |= rows
    if faults:
        raise UserError(
            [
                *(f"{experiment}: {text} (since the run)" for text in faults),
                f"{experiment}: its stages were scored otherwise: put back what differs, or name "
                "other rows with --data-root",
            ]
        )
    return list(rows)


def recorded_experiment(folder: Path, data_root: Path | None = None) -> Experiment:
    """The tasks of the config that an experiment was run with, without its methods.

    Relative paths in it are relative to the experiment's folder.
    """
    data = read_experiment(folder)["config"]
    if data_root is not None:
        data["data_root"] = str(data_root)
    elif data.get("data_root"):
        data["data_root"] = located(data["data_root"], folder.resolve())
    data["task_paths"] = [located(path, folder.resolve()) for path in data["task_paths"]]
    data["model"]["path"] = located(data["model"]["path"], folder.resolve())
    for stage in data["stages"]:
        stage |= {key: located(stage[key], folder.resolve()) for key in PLACES if stage.get(key)}
    inside = [p for p in data["task_paths"] if absolute(p).is_relative_to(folder.resolve())]
    if inside:
        raise UserError(
            f"{folder / EXPERIMENT}: task_paths: {inside[0]}: tasks are code, and are not loaded "
            "from a folder of results: move them out of it and run the config again"
        )
    try:
        return resolve_tasks(ExperimentConfig.model_validate(data))[0]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{folder / EXPERIMENT}: {where}: {first['msg']}: not a config of this version; "
            "run the experiment's config again, which writes it anew"
        ) from error


def _narrow(experiment: Experiment, selection: Selection) -> Experiment:
    """With the chosen benchmarks and limit."""
    config, tasks = experiment.config, experiment.tasks
    general = config.eval.general
    if chosen := chosen_tasks(selection.tasks, general.tasks):
        known = experiment.columns
        others = [name for name in chosen if name not in known]
        general = general.model_copy(update={"tasks": others, "after": "every"})
    if selection.limit is not None:
        general = general.model_copy(update={"limit": selection.limit, "budget": None})
        tasks = tuple(replace(task, test_limit=selection.limit) for task in tasks)
    changes = {"general": general, "within_stage": None}
    evaluation = config.eval.model_copy(update=changes)
    return replace(experiment, config=config.model_copy(update={"eval": evaluation}), tasks=tasks)


def chosen_tasks(names: Sequence[str], benchmarks: Sequence[str]) -> list[str]:
    """`--task` in our names; `general` stands for all of the run's benchmarks."""
    found: list[str] = []
    for name in names:
        if name.lower() != GENERAL:
            found.append(canonical_name(name))
        elif benchmarks:
            found += benchmarks
        else:
            raise UserError(
                f"--task {name}: the run has no benchmarks (eval.general.tasks): name one, such as "
                "--task piqa"
            )
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class _Job:
    """One stage that is scored into one place."""

    run: RunFolder
    stage: StageFolder
    place: Path
    units: Sequence[Unit]
    settings: Mapping[str, Any]
    dtype: str


def _job(
    run: RunFolder,
    suite: Suite,
    stage: Recorded,
    stage_names: Sequence[str],
    selection: Selection,
    probes: bool,
) -> _Job:
    """Whose place is fixed by all that its scores depend on. Raises UserError without a model."""
    folder = run.stage(stage.folder)
    if not folder.path.is_dir():
        raise UserError(_no_stage(run, selection))
    if fault := checkpoint_fault(run, folder):
        raise UserError(fault)
    units = suite.units(stage_names, True, TrainConfig.model_validate(stage.train))
    settings = {
        "trace": {unit.name: unit.size for unit in units if unit.part == "trace"},
        "general": {unit.name: unit.size for unit in units if unit.part == "general"},
        "engine": str(selection.engine),
        "probes": probes,
        "sha256": sha256_of([scored_basis(folder), [unit.depends_on() for unit in units]]),
    }
    what = slug("-".join(unit.name for unit in units))[:40]
    place = folder.path / "evals" / f"{what}-{sha256_of(settings)[:8]}"
    dtype = read_run(run.path / "run.json")["config"]["model"]["dtype"]
    return _Job(run, folder, place, units, settings, dtype)


def _score_run(
    job: _Job,
    suite: Suite,
    selection: Selection,
    reporter: Reporter,
    other_rows: Sequence[str],
) -> Path:
    scores = job.place / "scores.json"
    if line := check_training(job.stage):
        reporter.once(line)
    if not there(scores):
        with locked(job.place.parent):  # of this stage alone: the run may go on beside it
            if not there(scores):  # another process may have been at work
                _score(job, suite, selection, reporter, other_rows)
    elif (job.place / "partial").exists():
        drop_partial(job.place)
    return scores


def _score(
    job: _Job,
    suite: Suite,
    selection: Selection,
    reporter: Reporter,
    other_rows: Sequence[str],
) -> None:
    device = usable_device(selection.device)
    if device.type == "cpu":
        keep_freed_memory()
    scored = model_to_score(job.stage)
    model, tokenizer = load_checkpoint(scored, job.dtype, device, adapters=True)
    reporter.opened(job.run.path.parents[1].name)
    reporter.scoring(f"{job.run.path.parent.name}, stage {selection.stage}")
    reference = suite.reference(job.stage.base / "kl")
    subject = Subject(model, tokenizer, scored)
    scoring = Scoring(subject, job.units, scored_basis(job.stage), reference)

    def rest(_: object) -> dict[str, Any]:
        result = {"settings": job.settings, **scored_form(model, selection.engine)}
        if other_rows:
            result["other_rows"] = list(other_rows)
        documents = {leaf: unit.documents[leaf] for unit in job.units for leaf in unit.tasks}
        data = scored_data(suite.leaves, documents)
        tasks = {unit.name: definition(unit.tasks) for unit in job.units}
        return recorded(result, {"tasks": tasks, "data": data})

    score_into(job.place, scoring, suite, reporter, {"stage": selection.stage}, rest)
