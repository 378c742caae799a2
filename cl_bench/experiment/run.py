"""The story: check everything, score the base model once, then every stage of every run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path

from cl_bench.checks.found import Preflight
from cl_bench.checks.preflight import check_folder, contents_of_run, preflight
from cl_bench.config.schema import ExperimentConfig
from cl_bench.config.stages import HUB, PLACES
from cl_bench.costs.model_shapes import model_shapes
from cl_bench.errors import DivergedError, RunError, RunsFailedError, UserError
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.suite import Suite
from cl_bench.experiment.begun import adopt_runs, score_base
from cl_bench.experiment.disk import missing_bytes
from cl_bench.experiment.in_context import score_in_context
from cl_bench.experiment.processes import join
from cl_bench.experiment.pruned import announcements
from cl_bench.experiment.sharing import each, opening, place_of, refuse_sharers
from cl_bench.experiment.space import delete_unneeded
from cl_bench.experiment.stage import run_stage
from cl_bench.experiment.stage_files import failure_advice
from cl_bench.experiment.watched import NoWatch, Watch
from cl_bench.experiment.workplace import Workplace
from cl_bench.identity.bindings import portable_model
from cl_bench.methods.spec import Experiment, RunSpec
from cl_bench.progress import Reporter
from cl_bench.results.summary import write_summary
from cl_bench.store.experiments import write_experiment
from cl_bench.store.file_errors import check_results_folder, what_failed
from cl_bench.store.folders import RunFolder, portable
from cl_bench.training.cpu.heap import keep_freed_memory


def run_experiment(
    experiment: Experiment,
    results: Path,
    engine: Engine,
    reporter: Reporter,
    allow_code: bool = False,
    share: bool = False,
) -> Path:
    """Run what is not done yet of the chosen runs; returns the experiment's folder.

    With `share` other starts may do the same beside this one (`sharing.py`).
    Everything that can be wrong with the input is found before the first batch (UserError).
    """
    folder = results / experiment.config.name
    processes, device = join()
    reporter.enabled = processes.first
    if processes.first:
        check_results_folder(folder)
    if processes.world > 1:
        reporter.line(f"{processes.world} processes on {device.type}")
    with processes.first_goes_first():
        checked = preflight(experiment, engine, allow_code, reporter.line)
    suite, examples = checked.suite, checked.examples
    if device.type == "cpu":
        keep_freed_memory()
    work = Workplace(experiment, suite, examples, device, processes, reporter)
    work.stops.speaks = processes.first
    with work.stops.listening(), suite.kept:
        return _run(work, checked, folder, share)


def _run(work: Workplace, checked: Preflight, folder: Path, share: bool) -> Path:
    """The part that writes."""
    experiment, config, runs = work.experiment, work.config, work.experiment.chosen
    suite, processes, reporter = work.suite, work.processes, work.reporter
    if not processes.first:
        _run_all(work, runs, folder, NoWatch(), share)
        return folder
    _check_disk(experiment, suite, folder)
    now = contents_of_run(checked)
    check_folder(checked, folder, now)  # before even the lock is written
    with ExitStack() as alone:
        alone.enter_context(opening(folder, share, reporter.line))
        if not share:
            refuse_sharers(folder, experiment.runs)
        for line in check_folder(checked, folder, now):  # another process may have been at work
            reporter.line(line)
        with _said_to_be_kept(folder):
            _open_experiment(config, folder, checked.notes)
        watch = Watch(work, folder, runs, share)
        with watch.told(), _said_to_be_kept(folder):
            watch.base()
            now = score_base(work, experiment, folder, checked.model_path, now)
            reporter.part("", "")
            score_in_context(work, experiment, folder, checked.model_path, now)
            _check_reference(suite, runs, folder)
            adopt_runs(experiment, folder, now, reporter.line)
            if share:
                alone.close()
            _run_all(work, runs, folder, watch, share)
    return folder


@contextmanager
def _said_to_be_kept(folder: Path) -> Iterator[None]:
    """A file that cannot be read or written fails the run, which can go on."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{what_failed(error)}; what is complete in {folder} is kept: "
            "run the same command again to go on"
        ) from error


def _check_disk(experiment: Experiment, suite: Suite, folder: Path) -> None:
    """Room for what is not done yet, before anything starts."""
    shapes = model_shapes(experiment.config.model).shapes
    if shapes is None:
        return
    needed = missing_bytes(experiment, suite, shapes, folder)
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
    for stage in data["stages"]:
        places = {key: stage[key] for key in PLACES if stage.get(key)}
        stage |= {
            key: place if place.startswith(HUB) else portable(place, folder.resolve())
            for key, place in places.items()
        }
    write_experiment(
        folder,
        {
            "last_run": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "config": data,
            "notes": list(notes),
        },
    )


def _check_reference(suite: Suite, runs: Sequence[RunSpec], folder: Path) -> None:
    """The base model's distributions, before stages are trained that are compared with them."""
    places = [(place_of(folder, run), run.stages) for run in runs]
    if any(not place.stage(each.folder).scored for place, stages in places for each in stages):
        suite.reference(folder / "base" / "kl")


def _delete_unneeded(work: Workplace, run: RunSpec, place: RunFolder) -> None:
    """What `keep:` does not want, once a stage is scored."""
    keep = work.config.keep
    if numbers := delete_unneeded(place, run, keep):
        several = "s" if len(numbers) > 1 else ""
        named = ", ".join(map(str, numbers))
        work.reporter.line(
            f"{run.label}, seed {run.seed}: checkpoint{several} of stage{several} {named} deleted "
            f"(keep: {keep})"
        )


def _run_all(
    work: Workplace, runs: Sequence[RunSpec], folder: Path, watch: Watch, share: bool
) -> None:
    work.processes.wait()
    total = sum(len(work.experiment.now(run)) for run in runs)
    done = 0
    for run in runs:
        for line in announcements(place_of(folder, run), run.stages):
            work.reporter.line(f"{run.label}, seed {run.seed}, {line}")
    work.processes.wait()
    failures: list[str] = []
    for run, place in each(work, runs, folder, share):
        before = done
        try:
            for position in range(len(work.experiment.now(run))):
                work.reporter.stages(total, done)
                with watch.stage(run, position):
                    run_stage(work, run, place, position)
                done += 1
                if work.first_process:
                    write_summary(folder, place)
                    _delete_unneeded(work, run, place)
        except DivergedError as error:
            work.reporter.line(f"{run.label}, seed {run.seed}, {error}; the other runs go on")
            failures.append(
                f"{run.label}, seed {run.seed}, {error}. {failure_advice(place, error)}"
            )
            done = before + len(work.experiment.now(run))
    work.reporter.stages(total, done)
    if failures:
        raise RunsFailedError(folder, failures, len(runs))
