"""`cl-bench eval`: score a stage's checkpoint again, beside the run's own results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cl_bench.config.schema import ExperimentConfig, TrainConfig, slug
from cl_bench.data.definitions import definition
from cl_bench.data.tasks import canonical_name
from cl_bench.errors import UserError
from cl_bench.evaluation.code.humaneval import sandbox_warnings
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.opened import Subject, scored_form
from cl_bench.evaluation.headline import headline_faults
from cl_bench.evaluation.suite import Suite, chosen_documents, load_suite, scored_tasks
from cl_bench.experiment.stage_files import (
    check_training,
    checkpoint_fault,
    model_to_score,
    scored_basis,
)
from cl_bench.identity.bindings import Contents, of_record, recorded, scored_data
from cl_bench.identity.differences import data_differences, definition_differences
from cl_bench.models.checkpoints import load_checkpoint
from cl_bench.progress import Reporter
from cl_bench.scores.matrix import general_mean
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
    located,
    sha256_of,
    stage_number,
    there,
)
from cl_bench.store.partial import drop_partial, finish_scores
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


def rescore(experiment: Path, selection: Selection, reporter: Reporter) -> list[Path]:
    """Write `evals/<id>/scores.json` in the stage folder of every selected run; returns them.

    The id is fixed by what is scored and all that it depends on: what is there already is not
    scored again, and an interrupted scoring goes on. Raises UserError when the stage was not
    trained.
    """
    original = experiment_config(experiment, selection.data_root)
    config, stage_names = _narrow(original, selection)
    suite = load_suite(config, selection.engine, selection.allow_code)
    for warning in sandbox_warnings(suite.leaves):
        reporter.line(warning)
    if unscorable := list(headline_faults(suite.scored.values())):
        raise UserError(unscorable)
    runs = _runs(experiment, selection)
    now = _contents(original, suite, stage_names)
    others = _other_rows(experiment, runs, now, selection)
    for line in others:
        reporter.line(f"{line}: scored and recorded as such")
    return [
        _score_run(run, config, suite, stage_names, selection, reporter, others) for run in runs
    ]


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


def _contents(original: ExperimentConfig, suite: Suite, stage_names: Sequence[str]) -> Contents:
    """Of what is scored: the rows that the run's own limits choose, whatever `--limit` says."""
    stages = {name: suite.stage_tasks[name] for name in stage_names}
    wanted = set(original.eval.general.tasks)
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


def experiment_config(experiment: Path, data_root: Path | None = None) -> ExperimentConfig:
    """The config an experiment was run with; its relative paths are relative to its folder."""
    data = read_experiment(experiment)["config"]
    if data_root is not None:
        data["data_root"] = str(data_root)
    elif data.get("data_root"):
        data["data_root"] = located(data["data_root"], experiment.resolve())
    data["task_paths"] = [located(path, experiment.resolve()) for path in data["task_paths"]]
    data["model"]["path"] = located(data["model"]["path"], experiment.resolve())
    try:
        return ExperimentConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{experiment / EXPERIMENT}: {where}: {first['msg']}: not a config of this version; "
            "run the experiment's config again, which writes it anew"
        ) from error


def _narrow(config: ExperimentConfig, selection: Selection) -> tuple[ExperimentConfig, list[str]]:
    """The config with the chosen tasks and limit, and the stage tasks among them."""
    known = scored_tasks(config)
    general = config.eval.general
    chosen = chosen_tasks(selection.tasks, general.tasks)
    if chosen:
        others = [name for name in chosen if name not in known]
        general = general.model_copy(update={"tasks": others, "after": "every"})
    trace = config.eval.trace
    stages = config.stages
    if selection.limit is not None:
        general = general.model_copy(update={"limit": selection.limit, "budget": None})
        stages = [
            stage.model_copy(update={"test_limit": selection.limit}) for stage in config.stages
        ]
    changes = {"general": general, "trace": trace, "within_stage": None}
    evaluation = config.eval.model_copy(update=changes)
    narrowed = config.model_copy(update={"eval": evaluation, "stages": stages})
    if chosen:
        return narrowed, [name for name in known if name in chosen]
    return narrowed, scored_tasks(config, selection.stage)


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


def _score_run(
    run: RunFolder,
    config: ExperimentConfig,
    suite: Suite,
    stage_names: list[str],
    selection: Selection,
    reporter: Reporter,
    other_rows: Sequence[str],
) -> Path:
    import torch

    folder = next((s for s in run.stages() if stage_number(s.path.name) == selection.stage), None)
    if folder is None:
        found = [stage_number(s.path.name) for s in run.stages()]
        raise UserError(f"{run.path}: no stage {selection.stage} here yet (there: {found})")
    if fault := checkpoint_fault(run, folder):
        raise UserError(fault)
    if line := check_training(folder):
        reporter.once(line)
    resolved = read_run(run.path / "run.json")["config"]
    train = TrainConfig.model_validate(resolved["stages"][selection.stage - 1]["train"])
    units = suite.units(stage_names, True, train)
    basis, scored = scored_basis(folder), model_to_score(folder)
    settings = {
        "trace": {unit.name: unit.size for unit in units if unit.part == "trace"},
        "general": {unit.name: unit.size for unit in units if unit.part == "general"},
        "engine": str(selection.engine),
        "probes": config.eval.probes is not None,
        "sha256": sha256_of([basis, [unit.depends_on() for unit in units]]),
    }
    what = [unit.name for unit in units]
    place = folder.path / "evals" / f"{slug('-'.join(what))[:40]}-{sha256_of(settings)[:8]}"
    if there(place / "scores.json"):
        drop_partial(place)
        return place / "scores.json"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    dtype = resolved["model"]["dtype"]
    model, tokenizer = load_checkpoint(scored, dtype, device, adapters=True)
    reporter.scoring(f"{run.path.parent.name}, stage {selection.stage}")
    reference = suite.reference(folder.base / "kl")
    subject = Subject(model, tokenizer, scored)
    scores = suite.score(subject, units, place, basis, reporter, reference)
    general = {**scores["general"], "mean": general_mean(scores["general"])}
    result = {"stage": selection.stage, **scores, "general": general, "settings": settings}
    result |= scored_form(model, selection.engine)
    if other_rows:
        result["other_rows"] = list(other_rows)
    documents = {leaf: unit.documents[leaf] for unit in units for leaf in unit.tasks}
    data = scored_data(suite.leaves, documents)
    tasks = {unit.name: definition(unit.tasks) for unit in units}
    finish_scores(place, recorded(result, {"tasks": tasks, "data": data}))
    return place / "scores.json"
