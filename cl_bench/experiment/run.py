"""The story: check everything, score the base model once, then every stage of every run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from cl_bench.checks.found import Preflight
from cl_bench.checks.made_of import check_folder, made_of
from cl_bench.checks.preflight import preflight
from cl_bench.checks.processes_alike import check_alike, check_shared
from cl_bench.costs.model_shapes import model_shapes
from cl_bench.errors import DivergedError, RunsFailedError, UserError
from cl_bench.evaluation.crew import help_first, helped
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.suite import Suite
from cl_bench.evaluation.units import help_answer
from cl_bench.experiment.begun import adopt_runs, score_base
from cl_bench.experiment.card import card_bytes, card_faults
from cl_bench.experiment.disk import missing_bytes
from cl_bench.experiment.experiment_file import write_opened
from cl_bench.experiment.in_context import score_in_context
from cl_bench.experiment.processes import join
from cl_bench.experiment.pruned import announcements
from cl_bench.experiment.sharing import each, opening, place_of, refuse_sharers
from cl_bench.experiment.space import delete_and_say
from cl_bench.experiment.stage import run_stage
from cl_bench.experiment.stage_files import failure_advice
from cl_bench.experiment.watched import NoWatch, Watch
from cl_bench.experiment.workplace import Workplace
from cl_bench.identity.bindings import Contents
from cl_bench.methods.spec import Experiment, RunSpec
from cl_bench.models.load import load_model
from cl_bench.progress import Reporter
from cl_bench.results.summary import write_summary
from cl_bench.store.file_errors import check_results_folder, said_to_be_kept
from cl_bench.store.provenance import provenance
from cl_bench.training.cpu.heap import keep_freed_memory


def run_experiment(
    experiment: Experiment,
    results: Path,
    engine: Engine,
    reporter: Reporter,
    allow_code: bool = False,
    share: bool = False,
    agree: Callable[[Contents], None] | None = None,
) -> Path:
    """Run what is not done yet of the chosen runs; returns the experiment's folder.

    With `share` other starts may do the same beside this one (`sharing.py`). `agree` is given what
    the numbers would be made of before anything is written, and raises UserError where it is wrong.
    Everything that can be wrong with the input is found before the first batch (UserError).
    """
    folder = results / experiment.config.name
    processes, device = join()
    reporter.enabled = processes.first
    if processes.first:
        check_results_folder(folder)
    if processes.world > 1:
        reporter.line(f"{processes.world} processes on {device.type}")
    check_shared(processes, folder)
    with processes.first_goes_first():
        checked = preflight(experiment, engine, allow_code, reporter.line, device.type)
    if faults := list(card_faults(experiment, card_bytes(device), processes.world)):
        raise UserError(faults)
    if processes.world > 1:
        check_alike(processes, _all_made_of(checked))
    suite, examples = checked.suite, checked.examples
    if device.type == "cpu":
        keep_freed_memory()
    work = Workplace(experiment, suite, examples, device, processes, reporter)
    work.stops.speaks = processes.first
    with work.stops.listening(), suite.kept:
        return _run(work, checked, folder, share, agree)


def _all_made_of(checked: Preflight) -> dict[str, Any]:
    """What each of several processes has to have as the others."""
    made = provenance()
    commit = {} if made["git"] is None else {"git commit": made["git"]["commit"]}
    packages = {name: version or "none" for name, version in made["packages"].items()}
    places: dict[str, Any] = {"data_root": True, "task_paths": True, "model": {"path"}}
    config = checked.config.model_dump(mode="json", exclude=places)
    return {
        "cl-bench": made["cl_bench"],
        **commit,
        **packages,
        "config": config,
        **made_of(
            *(checked.experiment, checked.suite, checked.examples),
            *(checked.model_path, checked.say),
        ),
    }


def _run(
    work: Workplace,
    checked: Preflight,
    folder: Path,
    share: bool,
    agree: Callable[[Contents], None] | None,
) -> Path:
    """The part that writes."""
    experiment, config, runs = work.experiment, work.config, work.experiment.chosen
    suite, processes, reporter = work.suite, work.processes, work.reporter
    if not processes.first:
        dtype = config.model.dtype
        base = cache(lambda: load_model(checked.model_path, dtype, str(work.device)))
        help_first(processes, lambda: help_answer(base, processes))
        base.cache_clear()
        _run_all(work, runs, folder, NoWatch(), share)
        return folder
    check_disk(experiment, suite, folder)
    inputs = (experiment, suite, checked.examples)
    now = made_of(*inputs, checked.model_path, checked.say)
    if agree is not None:
        agree(now)
    check_folder(*inputs, folder, now)  # before even the lock is written
    with ExitStack() as alone:
        alone.enter_context(opening(folder, share, reporter.line))
        if not share:
            refuse_sharers(folder, experiment.runs)
        for line in check_folder(*inputs, folder, now):  # another process may have been at work
            reporter.line(line)
        with said_to_be_kept(folder):
            write_opened(config, folder, checked.notes)
        watch = Watch(work, folder, runs, share)
        with watch.told(), said_to_be_kept(folder):
            watch.base()
            with helped(processes):
                now = score_base(work, experiment, folder, checked.model_path, now)
                reporter.part("", "")
                score_in_context(work, experiment, folder, checked.model_path, now)
            _check_reference(suite, runs, folder)
            adopt_runs(experiment, folder, now, reporter.line)
            if share:
                alone.close()
            _run_all(work, runs, folder, watch, share)
    return folder


def check_disk(experiment: Experiment, suite: Suite, folder: Path) -> None:
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


def _check_reference(suite: Suite, runs: Sequence[RunSpec], folder: Path) -> None:
    """The base model's distributions, before stages are trained that are compared with them."""
    places = [(place_of(folder, run), run.stages) for run in runs]
    if any(not place.stage(each.folder).scored for place, stages in places for each in stages):
        suite.reference(folder / "base" / "kl")


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
                    delete_and_say(place, run, work.config.keep, work.reporter.line)
        except DivergedError as error:
            work.reporter.line(f"{run.label}, seed {run.seed}, {error}; the other runs go on")
            failures.append(
                f"{run.label}, seed {run.seed}, {error}. {failure_advice(place, error)}"
            )
            done = before + len(work.experiment.now(run))
    work.reporter.stages(total, done)
    if failures:
        raise RunsFailedError(folder, failures, len(runs))
