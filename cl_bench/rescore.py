"""`cl-bench eval`: score a stage's checkpoint again, beside the run's own results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.checkpoints import load_checkpoint
from cl_bench.config import ExperimentConfig, TrainConfig, slug
from cl_bench.data.tasks import canonical_name
from cl_bench.errors import UserError
from cl_bench.evaluation.scores import general_mean
from cl_bench.progress import Reporter
from cl_bench.store import (
    RunFolder,
    find_runs,
    located,
    read_json,
    sha256_of,
    stage_number,
    write_json,
)
from cl_bench.suite import load_suite


@dataclass(frozen=True)
class Selection:
    """What `cl-bench eval` was asked to score, and how."""

    stage: int
    method: str | None
    seed: int | None
    tasks: tuple[str, ...]
    limit: int | None
    engine: str
    data_root: Path | None


def rescore(experiment: Path, selection: Selection, reporter: Reporter) -> list[Path]:
    """Write `evals/<id>/scores.json` in the stage folder of every selected run; returns them.

    The id is fixed by what is scored, so the same command writes the same file. Raises UserError
    when the stage was not trained.
    """
    config = experiment_config(experiment, selection.data_root)
    config, stage_names = _narrow(config, selection)
    suite = load_suite(config, selection.engine)
    written = []
    for run in find_runs(experiment, selection.method, selection.seed):
        written.append(_score_run(run, config, suite, stage_names, selection, reporter))
    return written


def experiment_config(experiment: Path, data_root: Path | None = None) -> ExperimentConfig:
    """The config an experiment was run with; its relative paths are relative to its folder."""
    data = read_json(experiment / "experiment.json")["config"]
    if data_root is not None:
        data["data_root"] = str(data_root)
    elif data.get("data_root"):
        data["data_root"] = located(data["data_root"], experiment.resolve())
    data["task_paths"] = [located(path, experiment.resolve()) for path in data["task_paths"]]
    data["model"]["path"] = located(data["model"]["path"], experiment.resolve())
    return ExperimentConfig.model_validate(data)


def _narrow(config: ExperimentConfig, selection: Selection) -> tuple[ExperimentConfig, list[str]]:
    """The config with the chosen tasks and limit, and the stage tasks among them."""
    known = [canonical_name(stage.task) for stage in config.stages]
    chosen = [canonical_name(name) for name in selection.tasks]
    general = config.eval.general
    if chosen:
        others = [name for name in chosen if name not in known]
        general = general.model_copy(update={"tasks": others, "after": "every"})
    trace = config.eval.trace
    stages = config.stages
    if selection.limit is not None:
        general = general.model_copy(update={"limit": selection.limit})
        stages = [
            stage.model_copy(update={"test_limit": selection.limit}) for stage in config.stages
        ]
    evaluation = config.eval.model_copy(update={"general": general, "trace": trace})
    narrowed = config.model_copy(update={"eval": evaluation, "stages": stages})
    return narrowed, [name for name in known if name in chosen] if chosen else known


def _score_run(
    run: RunFolder,
    config: ExperimentConfig,
    suite: Any,
    stage_names: list[str],
    selection: Selection,
    reporter: Reporter,
) -> Path:
    import torch

    folder = next((s for s in run.stages() if stage_number(s.path.name) == selection.stage), None)
    if folder is None or not folder.trained:
        there = [stage_number(s.path.name) for s in run.stages() if s.trained]
        raise UserError(f"{run.path}: stage {selection.stage} has no checkpoint (there: {there})")
    stages = read_json(run.path / "run.json")["config"]["stages"]
    train = TrainConfig.model_validate(stages[selection.stage - 1]["train"])
    names = stage_names if selection.tasks else stage_names[: selection.stage]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = load_checkpoint(folder.checkpoint, config.model.dtype, device, adapters=True)
    reporter.scoring(f"{run.path.parent.name}, stage {selection.stage}")
    settings = {
        "trace": {name: len(suite.documents[name]) for name in names},
        "general": {
            name: sum(len(suite.documents[leaf]) for leaf in leaves)
            for name, leaves in suite.general.items()
        },
        "engine": selection.engine,
    }
    what = [*names, *suite.general]
    place = folder.path / "evals" / f"{slug('-'.join(what))[:40]}-{sha256_of(settings)[:8]}"
    scores = suite.score(
        model, tokenizer, train, names, True, place / "predictions", reporter.scored
    )
    general = {**scores["general"], "mean": general_mean(scores["general"])}
    result = {"stage": selection.stage, "trace": scores["trace"], "general": general}
    write_json(place / "scores.json", {**result, "settings": settings})
    return place / "scores.json"
