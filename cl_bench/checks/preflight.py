"""What can be found wrong before anything is paid for: `plan` and `run` ask the same questions.

Loading the tasks, their data and the tokenizer takes seconds, no weights and no accelerator. Each
check is a function from `Preflight` to its faults; all faults come in one message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from cl_bench.checks.asked_alike import note_forms
from cl_bench.checks.asked_data import count_faults, prompt_faults, shot_faults, task_faults
from cl_bench.checks.found import Examples, Preflight
from cl_bench.checks.general_answers import check_general
from cl_bench.checks.gold_answers import check_answers
from cl_bench.checks.headlines import score_faults
from cl_bench.checks.in_context import check_in_context
from cl_bench.checks.made_of import rows_to_train_on
from cl_bench.checks.model_fits import check_token_ids, check_window
from cl_bench.checks.own_data import note_own_data
from cl_bench.config.schema import ExperimentConfig
from cl_bench.costs.model_shapes import config_here, weights_here
from cl_bench.errors import Absent, UserError
from cl_bench.evaluation.code.humaneval import sandbox_warnings
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.suite import load_suite
from cl_bench.methods.adapter_checks import continuity_faults, target_faults
from cl_bench.methods.function_methods import FunctionMethod
from cl_bench.methods.spec import Experiment, RunSpec
from cl_bench.methods.static_checks import (
    file_faults,
    offload_faults,
    shard_faults,
    stage_faults,
    trained_faults,
    weights_faults,
)
from cl_bench.models.kinds import dtype_faults, kind_fault
from cl_bench.models.load import (
    embedding_rows,
    load_skeleton,
    load_tokenizer,
    model_path_fault,
    pad_within,
    resolve_model_path,
    special_token_faults,
)
from cl_bench.models.load import (
    file_faults as model_file_faults,
)
from cl_bench.trackers.known import tracker_faults


def engine_faults(found: Preflight) -> Iterator[str]:
    """An engine in a process of its own loads whole weights, which some methods cannot give it."""
    engine = found.suite.engine
    for run in found.runs if not engine.in_memory else ():
        names = {
            p.method.name
            for s in run.stages
            for p in s.parts
            if issubclass(p.method, FunctionMethod)
        }
        for name in sorted(names):
            yield (
                f"--engine {engine}: {run.label}: {name} trains functions beside the model, which "
                "cannot be merged into weights for it to load; use cl-bench or hf"
            )


WEIGHT_FILES = (".safetensors", ".bin")
Check = Callable[[Preflight], Iterable[str]]
CHECKS: tuple[Check, ...] = (
    file_faults,
    target_faults,
    continuity_faults,
    stage_faults,
    weights_faults,
    shard_faults,
    offload_faults,
    trained_faults,
    engine_faults,
    task_faults,
    count_faults,
    shot_faults,
    prompt_faults,
    score_faults,
    note_own_data,
    check_answers,
    check_general,
    check_token_ids,
    check_window,
    check_in_context,
    note_forms,
)
"""In the order in which their faults are listed."""


def preflight(
    experiment: Experiment,
    engine: Engine,
    allow_code: bool = False,
    say: Callable[[str], None] = print,
    device: str | None = None,
) -> Preflight:
    """Tasks, data, examples, model and tokenizer, checked. Raises UserError with every fault.

    `device`: the kind that the run computes on, where it is known.
    """
    config = experiment.config
    faults = [*tracker_faults(config.track), *model_faults(config, experiment.chosen)]
    suite = None
    examples: Examples = {}
    try:
        suite = load_suite(experiment, engine, allow_code)
        for warning in sandbox_warnings(suite.leaves):
            say(warning)
        examples = rows_to_train_on(experiment, suite.stage_tasks)
    except UserError as error:
        faults += error.faults
    if faults or suite is None:
        raise UserError(faults)
    path = resolve_model_path(config.model.source, say)
    if fault := _no_weights(path):
        raise UserError([fault])
    tokenizer = load_tokenizer(path)
    local = isinstance(path, Path) or weights_here(config.model)
    skeleton, faults = load_skeleton(path, weights=local)
    rows = embedding_rows(skeleton)
    if faults := [*faults, *special_token_faults(tokenizer, rows)]:
        raise UserError(faults)
    padding = pad_within(tokenizer, rows)
    found = Preflight(
        experiment, suite, examples, path, tokenizer, say, skeleton=skeleton, device=device
    )
    if padding:
        found.note(padding)
    if faults := list(dict.fromkeys(fault for check in CHECKS for fault in check(found))):
        raise UserError(faults)
    return found


def model_faults(config: ExperimentConfig, runs: Sequence[RunSpec]) -> list[str]:
    """What is wrong with `model:` as far as the config and a config.json that is here tell."""
    faults = dtype_faults(config.model, bool(runs))
    if fault := model_path_fault(config.model.source):
        return [*faults, fault]
    if broken := model_file_faults(config.model.path):
        return [*faults, *broken]
    values = config_here(config.model)
    fault = kind_fault(values, config.model.path) if values is not None else None
    return [*faults, fault] if fault else faults


def _no_weights(path: str | Path) -> Absent | None:
    """A folder that has a config.json only: enough to plan, not to run."""
    if isinstance(path, str) or any(
        file for ending in WEIGHT_FILES for file in path.glob(f"*{ending}")
    ):
        return None
    return Absent(f"model.path: the folder '{path}' has no weights (*.safetensors or *.bin)")
