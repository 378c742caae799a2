"""The story: check everything, score the base model once, then every stage of every run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from cl_bench.config import ExperimentConfig
from cl_bench.data.examples import Example
from cl_bench.data.tasks import canonical_name
from cl_bench.disk import missing_bytes
from cl_bench.errors import RunError, UserError
from cl_bench.evaluation.choice import Engine
from cl_bench.evaluation.engines import Subject
from cl_bench.evaluation.scores import general_mean
from cl_bench.heap import keep_freed_memory
from cl_bench.model_shapes import model_shapes
from cl_bench.models import load_model
from cl_bench.partial import drop_partial, finish_scores
from cl_bench.preflight import preflight
from cl_bench.progress import Reporter
from cl_bench.provenance import provenance
from cl_bench.resolve import RunSpec, resolve_runs
from cl_bench.stage import Workplace, run_stage, seed_everything, wait_for_everyone
from cl_bench.store import RunFolder, locked, portable, read_json, sha256_of, write_json
from cl_bench.suite import Suite
from cl_bench.summary import write_summary
from cl_bench.training.loop import Processes


def run_experiment(
    config: ExperimentConfig,
    results: Path,
    only: Sequence[str],
    engine: Engine,
    reporter: Reporter,
    allow_code: bool = False,
) -> Path:
    """Run what is not done yet; returns the experiment's folder.

    Everything that can be wrong with the input is found before the first batch (UserError).
    """
    runs = resolve_runs(config, only)
    checked = preflight(config, runs, engine, allow_code, reporter.line)
    suite, examples, model_path = checked.suite, checked.examples, checked.model_path
    folder = results / config.name
    processes, device = _processes()
    if device.type == "cpu":
        keep_freed_memory()
    first = processes.rank == 0
    reporter.enabled = first
    work = Workplace(config, suite, examples, device, processes, reporter)
    if not first:
        _run_all(work, runs, folder)
        return folder
    _check_disk(config, suite, folder, runs)
    with locked(folder):
        _open_experiment(config, folder)
        try:
            _score_base(work, folder, model_path)
            _adopt_runs(work, runs, folder)
            _run_all(work, runs, folder)
        except OSError as error:
            raise RunError(
                f"{folder}: {error}; what is complete is kept: run the same command to go on"
            ) from error
    return folder


def _processes() -> tuple[Processes, torch.device]:
    """This process among those of `accelerate launch` or `torchrun`; alone otherwise."""
    accelerator = Accelerator()

    def all_reduce(tensor: torch.Tensor) -> None:
        if accelerator.num_processes > 1:
            torch.distributed.all_reduce(tensor)

    processes = Processes(accelerator.process_index, accelerator.num_processes, all_reduce)
    return processes, accelerator.device


def _check_disk(
    config: ExperimentConfig, suite: Suite, folder: Path, runs: Sequence[RunSpec]
) -> None:
    """Room for what is not done yet, before anything starts."""
    shapes = model_shapes(config.model).shapes
    if shapes is None:
        return
    needed = missing_bytes(config, suite, shapes, folder, runs)
    parent = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise UserError(
            f"{folder}: what is not done yet will leave {needed / 1e9:.1f} GB (checkpoints, "
            "methods' states, predictions, the base model's distributions), "
            f"{free / 1e9:.1f} GB are free; free some, or use --results on another disk"
        )


def _open_experiment(config: ExperimentConfig, folder: Path) -> None:
    """`experiment.json`: the config as read, and when it was last run."""
    data = config.model_dump(mode="json", exclude_unset=True)
    if config.data_root is not None:
        data["data_root"] = portable(config.data_root, folder.resolve())
    data["task_paths"] = [portable(path, folder.resolve()) for path in config.task_paths]
    data["model"] = portable_model(config, folder)
    write_json(
        folder / "experiment.json",
        {"last_run": datetime.now(timezone.utc).isoformat(timespec="seconds"), "config": data},
    )


def _adopt_runs(work: Workplace, runs: Sequence[RunSpec], folder: Path) -> None:
    """Write every `run.json`, or refuse to mix two configs in one folder."""
    record = provenance() | {"data": data_checksums(work.examples, work.suite)}
    faults: list[str] = []
    for run in runs:
        place = RunFolder(folder / run.slug / f"seed-{run.seed}")
        try:
            place.adopt(
                resolved_config(work.config, run, folder),
                {"label": run.label, "order": run.order, **record},
            )
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)


def portable_model(config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """The model section with a local path made relative, so that results can be moved."""
    path = portable(config.model.path, folder.resolve())
    return config.model.model_dump(mode="json") | {"path": path}


def resolved_config(config: ExperimentConfig, run: RunSpec, folder: Path) -> dict[str, Any]:
    """Everything that decides this run's numbers; where the data lies does not."""
    evaluation = config.eval.model_dump(mode="json")
    evaluation["general"] = {"after": config.eval.general.after, **config.eval.general.settings()}
    unscored = [canonical_name(stage.task) for stage in config.stages if not stage.score]
    return {
        "experiment": config.name,
        "label": run.label,
        "seed": run.seed,
        "model": portable_model(config, folder),
        "eval": {key: value for key, value in evaluation.items() if value is not None},
        **({"unscored": unscored} if unscored else {}),
        "stages": [
            {
                "index": stage.index,
                "tasks": list(stage.tasks),
                "start": stage.start,
                "epochs": stage.epochs,
                "limit": stage.limit,
                "test_limit": config.stages[stage.index - 1].test_limit,
                "method": [
                    {part.method.name: part.options.model_dump(mode="json", by_alias=True)}
                    for part in stage.parts
                ],
                "train": stage.train.model_dump(mode="json"),
                "origins": dict(stage.origins),
            }
            for stage in run.stages
        ],
    }


def data_checksums(
    examples: Mapping[tuple[str, int], Sequence[Example]], suite: Suite
) -> dict[str, dict[str, str]]:
    """sha256 of the training prompts and answers and of the scored documents, by task."""
    checksums: dict[str, dict[str, str]] = {}
    for (task, seed), items in examples.items():
        rows = [[item.prompt, item.answer] for item in items]
        checksums.setdefault(task, {})[f"train (seed {seed})"] = sha256_of(rows)
    leaves = suite.leaves
    for task, documents in suite.documents.items():
        source = leaves[task]
        scored = [str(source.eval_docs[i]) for i in documents]
        checksums.setdefault(task, {})["test"] = sha256_of(scored)
    return checksums


def _score_base(work: Workplace, folder: Path, model_path: str | Path) -> None:
    """The base model's row (ORI): every stage task and General, once per experiment."""
    config, place = work.config, folder / "base"
    settings = base_settings(config, folder)
    file = place / "scores.json"
    if file.is_file():
        if read_json(file)["settings"] != settings:
            raise UserError(
                f"{file}: was scored with other settings; use another name: or delete {place}"
            )
        drop_partial(place)
        return
    seed_everything(0)
    model, tokenizer = load_model(model_path, config.model.dtype, str(work.device))
    work.reporter.scoring("base model")
    names = [] if config.eval.trace.after == "never" else work.suite.columns
    units = work.suite.units(names, config.eval.general.after != "never", config.train)
    basis = {"model": settings["model"]}
    reference = work.suite.reference(place / "kl", of_base=True)
    subject = Subject(model, tokenizer, Path(model_path))
    scores = work.suite.score(subject, units, place, basis, work.reporter, reference)
    general = {**scores["general"], "mean": general_mean(scores["general"])}
    data = {"stage": 0, "trace": scores["trace"], "general": general, "probes": scores["probes"]}
    finish_scores(place, {**data, "settings": settings, "engine": str(work.suite.engine)})


def base_settings(config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """What the base model's scores depend on."""
    train = config.train
    return {
        "model": portable_model(config, folder),
        "stages": [
            [canonical_name(stage.task), stage.test_limit] for stage in config.stages if stage.score
        ],
        "trace_limit": config.eval.trace.limit,
        "general": config.eval.general.settings(),
        "probes": config.eval.probes and config.eval.probes.model_dump(mode="json"),
        "prompt": [train.max_prompt_tokens, train.max_answer_tokens, train.truncation],
    }


def _run_all(work: Workplace, runs: Sequence[RunSpec], folder: Path) -> None:
    wait_for_everyone(work.processes)
    total = sum(len(run.stages) for run in runs)
    done = 0
    for run in runs:
        place = RunFolder(folder / run.slug / f"seed-{run.seed}")
        for position in range(len(run.stages)):
            work.reporter.stages(total, done)
            run_stage(work, run, place, position)
            done += 1
            if work.first_process:
                write_summary(folder, place)
    work.reporter.stages(total, done)
