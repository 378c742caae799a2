"""A start that finds nothing to do is told so without torch, and without loading a model.

Everything that numbers depend on is compared as at any other start (weights, tokenizer, task
definitions, rows), and every file is looked at. What only trains or scores is not checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cl_bench.errors import UserError
from cl_bench.experiment.base_rows import missing_columns
from cl_bench.experiment.experiment_file import as_recorded, write_opened
from cl_bench.experiment.midway.places import drop_midway
from cl_bench.experiment.pruned import to_train_again
from cl_bench.experiment.sharing import opening, place_of, refuse_sharers
from cl_bench.experiment.space import delete_and_say
from cl_bench.experiment.stage_files import check_done
from cl_bench.methods.spec import Experiment
from cl_bench.models.load import model_path_fault, resolve_model_path
from cl_bench.results.summary import write_summary
from cl_bench.store.experiments import EXPERIMENT, read_experiment
from cl_bench.store.file_errors import check_results_folder, said_to_be_kept
from cl_bench.store.folders import there
from cl_bench.store.partial import drop_partial
from cl_bench.store.seals import read_scores
from cl_bench.store.status_file import read_status


def finished(
    experiment: Experiment, results: Path, allow_code: bool, share: bool, say: Callable[[str], None]
) -> Path | None:
    """The experiment's folder if all that is asked for is there; None: a run must look.

    Raises UserError where the folder holds results that were made of other things than the config
    says, and RunError where a file is not as it was left.
    """
    folder = results / experiment.config.name
    if not _all_there(experiment, folder):
        return None
    from cl_bench.checks.made_of import (  # datasets: a second
        check_folder,
        made_of,
        rows_to_train_on,
    )
    from cl_bench.evaluation.asked import load_asked

    config = experiment.config
    try:
        asked = load_asked(experiment, allow_code)
        examples = rows_to_train_on(experiment, asked.stage_tasks)
    except UserError:
        return None  # with its other faults
    if model_path_fault(config.model.source):
        return None
    path = resolve_model_path(config.model.source, say)
    inputs = (experiment, asked, examples)
    now = made_of(*inputs, path, say)
    check_folder(*inputs, folder, now)
    check_results_folder(folder)
    with opening(folder, share, say):
        if not share:
            refuse_sharers(folder, experiment.runs)
        if not _all_there(experiment, folder):  # another process was at work
            return None
        for line in check_folder(*inputs, folder, now):
            say(line)
        with said_to_be_kept(folder):
            _close(experiment, folder, say)
    return folder


def _all_there(experiment: Experiment, folder: Path) -> bool:
    """Whether every row and stage is scored, by a start with this config that ended well."""
    config = experiment.config
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or config.track or not there(folder / EXPERIMENT):
        return False
    status = read_status(folder)
    if status is None or status.get("state") != "finished":
        return False
    if read_experiment(folder)["config"] != as_recorded(config, folder):
        return False
    for row in _rows(experiment, folder):
        scored = there(row / "scores.json")
        if not scored or missing_columns(experiment, read_scores(row)):
            return False
    for run in experiment.chosen:
        place = place_of(folder, run)
        if to_train_again(place, run.stages):
            return False
        if not all(place.stage(stage.folder).scored for stage in experiment.now(run)):
            return False
    return True


def _rows(experiment: Experiment, folder: Path) -> list[Path]:
    """Of the base model, with and without worked examples."""
    return [folder / "base", *(folder / row.folder for row in experiment.chosen_in_context)]


def _close(experiment: Experiment, folder: Path, say: Callable[[str], None]) -> None:
    """What every start leaves behind it."""
    config = experiment.config
    write_opened(config, folder, read_experiment(folder).get("notes", []))
    for row in _rows(experiment, folder):
        drop_partial(row)
    for run in experiment.chosen:
        place = place_of(folder, run)
        for stage in (place.stage(each.folder) for each in experiment.now(run)):
            check_done(stage)
            drop_partial(stage.path)
            drop_midway(stage.path)
        write_summary(folder, place)
        delete_and_say(place, run, config.keep, say)
