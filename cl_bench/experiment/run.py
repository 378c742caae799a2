"""The story: check everything, score the base model once, then every stage of every run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from cl_bench.checks.preflight import check_folder, contents_of_run, preflight
from cl_bench.config.schema import ExperimentConfig
from cl_bench.costs.model_shapes import model_shapes
from cl_bench.errors import DivergedError, RunError, RunsFailedError, UserError
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.opened import Subject
from cl_bench.evaluation.suite import Suite
from cl_bench.experiment.disk import missing_bytes
from cl_bench.experiment.processes import join
from cl_bench.experiment.pruned import announcements
from cl_bench.experiment.resolve import resolve_runs
from cl_bench.experiment.stage import Workplace, run_stage, seed_everything
from cl_bench.experiment.stage_files import failure_advice
from cl_bench.identity.bindings import (
    Contents,
    base_settings,
    bound,
    of_base,
    portable_model,
    recorded,
    run_settings,
)
from cl_bench.methods.spec import RunSpec
from cl_bench.models.contents import model_contents
from cl_bench.models.load import load_model
from cl_bench.progress import Reporter
from cl_bench.results.summary import write_summary
from cl_bench.scores.matrix import general_mean
from cl_bench.store.experiments import read_run, write_experiment, write_run
from cl_bench.store.file_errors import check_results_folder, what_failed
from cl_bench.store.folders import RunFolder, locked, portable, sha256_of, there
from cl_bench.store.partial import drop_partial, finish_scores
from cl_bench.store.provenance import provenance
from cl_bench.training.cpu.heap import keep_freed_memory


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
    folder = results / config.name
    processes, device = join()
    reporter.enabled = processes.first
    if processes.first:
        check_results_folder(folder)
    if processes.world > 1:
        reporter.line(f"{processes.world} processes on {device.type}")
    with processes.first_goes_first():
        checked = preflight(config, runs, engine, allow_code, reporter.line)
    suite, examples, model_path = checked.suite, checked.examples, checked.model_path
    if device.type == "cpu":
        keep_freed_memory()
    work = Workplace(config, suite, examples, device, processes, reporter)
    if not processes.first:
        _run_all(work, runs, folder)
        return folder
    _check_disk(config, suite, folder, runs)
    now = contents_of_run(checked)
    check_folder(checked, folder, now)  # before even the lock is written
    with locked(folder):
        for line in check_folder(checked, folder, now):  # another process may have been at work
            reporter.line(line)
        _open_experiment(config, folder, checked.notes)
        try:
            now = _score_base(work, folder, model_path, now)
            _check_reference(suite, runs, folder)
            _adopt_runs(work, runs, folder, now)
            _run_all(work, runs, folder)
        except OSError as error:
            raise RunError(
                f"{what_failed(error)}; what is complete in {folder} is kept: "
                "run the same command again to go on"
            ) from error
    return folder


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


def _open_experiment(config: ExperimentConfig, folder: Path, notes: Sequence[str]) -> None:
    """`experiment.json`: the config as read, when it was last run, and what was odd about it."""
    data = config.model_dump(mode="json", exclude_unset=True)
    if config.data_root is not None:
        data["data_root"] = portable(config.data_root, folder.resolve())
    data["task_paths"] = [portable(path, folder.resolve()) for path in config.task_paths]
    data["model"] = portable_model(config, folder)
    write_experiment(
        folder,
        {
            "last_run": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "config": data,
            "notes": list(notes),
        },
    )


def _adopt_runs(work: Workplace, runs: Sequence[RunSpec], folder: Path, now: Contents) -> None:
    """Write the `run.json` of every run that holds no results yet, with what is there now."""
    for run in runs:
        place = RunFolder(folder / run.slug / f"seed-{run.seed}")
        if bound(place.path):
            continue
        settings = run_settings(work.config, run, folder)
        about = {"label": run.label, "order": run.order, "keeps": run.keeps, **provenance()}
        record = {"sha256": sha256_of(settings), "config": settings, **about}
        names = {stage.folder for stage in run.stages}
        file = place.path / "run.json"
        anew = there(file) and read_run(file)["sha256"] != record["sha256"]
        for stage in place.stages():  # of a start with other settings that finished none
            if anew or stage.path.name not in names:
                shutil.rmtree(stage.path)
        write_run(file, recorded(record, now))


def _score_base(work: Workplace, folder: Path, model_path: str | Path, now: Contents) -> Contents:
    """The base model's row (ORI): every stage task and General, once per experiment.

    Returns `now`, with the weights of a hub model that had to be fetched first.
    """
    config, place = work.config, folder / "base"
    if there(place / "scores.json"):
        drop_partial(place)
        return now
    settings = base_settings(config, folder)
    seed_everything(0)
    model, tokenizer = load_model(model_path, config.model.dtype, str(work.device))
    now = {**now, "model": model_contents(model_path)}
    work.reporter.scoring("base model")
    names = [] if config.eval.trace.after == "never" else work.suite.columns
    units = work.suite.units(names, config.eval.general.after != "never", config.train)
    basis = {"model": {**(now["model"] or settings["model"]), "dtype": config.model.dtype}}
    reference = work.suite.reference(place / "kl", of_base=True)
    subject = Subject(model, tokenizer, Path(model_path))
    scores = work.suite.score(subject, units, place, basis, work.reporter, reference)
    general = {**scores["general"], "mean": general_mean(scores["general"])}
    data = {"stage": 0, "trace": scores["trace"], "general": general, "probes": scores["probes"]}
    data |= {"settings": settings, "engine": str(work.suite.engine)}
    own = of_base(now, work.suite.columns, work.suite.general)
    finish_scores(place, recorded(data, own))
    return now


def _check_reference(suite: Suite, runs: Sequence[RunSpec], folder: Path) -> None:
    """The base model's distributions, before stages are trained that are compared with them."""
    places = [(RunFolder(folder / run.slug / f"seed-{run.seed}"), run.stages) for run in runs]
    if any(not place.stage(each.folder).scored for place, stages in places for each in stages):
        suite.reference(folder / "base" / "kl")


def _run_all(work: Workplace, runs: Sequence[RunSpec], folder: Path) -> None:
    work.processes.wait()
    total = sum(len(run.stages) for run in runs)
    done = 0
    for run in runs:
        place = RunFolder(folder / run.slug / f"seed-{run.seed}")
        for line in announcements(place, run.stages):
            work.reporter.line(f"{run.label}, seed {run.seed}, {line}")
    work.processes.wait()
    failures: list[str] = []
    for run in runs:
        place = RunFolder(folder / run.slug / f"seed-{run.seed}")
        before = done
        try:
            for position in range(len(run.stages)):
                work.reporter.stages(total, done)
                run_stage(work, run, place, position)
                done += 1
                if work.first_process:
                    write_summary(folder, place)
        except DivergedError as error:
            work.reporter.line(f"{run.label}, seed {run.seed}, {error}; the other runs go on")
            failures.append(
                f"{run.label}, seed {run.seed}, {error}. {failure_advice(place, error)}"
            )
            done = before + len(run.stages)
    work.reporter.stages(total, done)
    if failures:
        raise RunsFailedError(folder, failures, len(runs))
