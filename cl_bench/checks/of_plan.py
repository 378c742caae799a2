"""The questions of `preflight`, as far as `cl-bench plan` can ask them: it fetches nothing."""

from __future__ import annotations

from pathlib import Path

from cl_bench.costs.model_shapes import known_kind_fault, model_file
from cl_bench.data.own_files.task import own_task
from cl_bench.data.tasks import unknown_task
from cl_bench.errors import Absent, UserError
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.methods.spec import Experiment
from cl_bench.methods.static_checks import faults_of_stages
from cl_bench.models.kinds import dtype_faults
from cl_bench.models.load import model_path_fault
from cl_bench.trackers.known import tracker_faults


def plan_checks(experiment: Experiment, folder: Path, engine: Engine) -> list[str]:
    """What `run` would refuse is refused (UserError); returns what could not be looked at here.

    `folder` is the experiment's, which may hold results already.

    Fetches nothing. A model or data that is not on this machine yet is no fault of the config:
    without them only the names of the tasks and the user's own rows are checked.
    """
    config = experiment.config
    names = [task.given for task in experiment.tasks if task.data is None]
    faults = [fault for name in names if (fault := unknown_task(name, config.task_paths))]
    faults += tracker_faults(config.track)
    absent = model_path_fault(config.model.source) is None and not model_file(
        config.model, "config.json"
    )
    if absent:
        fault = known_kind_fault(config.model)
        faults += [
            *dtype_faults(config.model, bool(experiment.chosen)),
            *([fault] if fault else []),
        ]
        facts, more = _own_rows(experiment)
        faults += [*more, *faults_of_stages(experiment.chosen)]
    if faults:
        raise UserError(faults)
    if absent:
        return [*facts, f"not checked: {config.model.source} is not on this machine"]
    from cl_bench.checks.made_of import check_folder, made_of
    from cl_bench.checks.preflight import preflight

    warnings: list[str] = []
    try:
        found = preflight(experiment, engine, allow_code=True, say=warnings.append)
        if folder.is_dir():
            inputs = (experiment, found.suite, found.examples)
            now = made_of(*inputs, found.model_path, found.say)
            warnings += check_folder(*inputs, folder, now)
    except UserError as error:
        if not all(isinstance(fault, Absent) for fault in error.faults):
            raise
        return [f"not checked: {fault}" for fault in error.faults]
    return warnings


def _own_rows(experiment: Experiment) -> tuple[list[str], list[str]]:
    """What is told of stages from files, and their faults, where the model is not here.

    They are asked for with everything else where it is.
    """
    facts: list[str] = []
    faults: list[str] = []
    scored = experiment.columns
    for name, data in experiment.own.items():
        try:
            made = own_task(name, data, name in scored)
            facts += [made.fact, *made.oddities]
        except UserError as error:
            known = (fault for fault in error.faults if not isinstance(fault, Absent))
            facts += [f"not checked: {each}" for each in error.faults if isinstance(each, Absent)]
            faults += known
    return facts, faults
