"""What can be found wrong before anything is paid for: `plan` and `run` ask the same questions.

Loading the tasks, their data and the tokenizer takes seconds, no weights and no accelerator. Each
check is a function from `Preflight` to its faults; all faults come in one message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl_bench.checks.asked_alike import note_forms
from cl_bench.checks.general_answers import check_general
from cl_bench.checks.gold_answers import check_answers
from cl_bench.checks.headlines import score_faults
from cl_bench.checks.model_fits import check_token_ids, check_window
from cl_bench.config.schema import ExperimentConfig
from cl_bench.costs.model_shapes import config_here, weights_here
from cl_bench.data.examples import Example, training_examples
from cl_bench.data.tasks import canonical_name
from cl_bench.errors import Absent, UserError
from cl_bench.evaluation.code.humaneval import sandbox_warnings
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.suite import Suite, load_suite
from cl_bench.experiment.resolve import resolve_runs
from cl_bench.identity.bindings import Contents, check_same, contents
from cl_bench.methods.spec import RunSpec
from cl_bench.methods.static_checks import file_faults
from cl_bench.methods.targets import continuity_faults, target_faults
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


@dataclass(frozen=True)
class Preflight:
    """What the checks look at, and afterwards what the run starts from."""

    config: ExperimentConfig
    runs: Sequence[RunSpec]
    suite: Suite
    examples: Mapping[tuple[str, int], Sequence[Example]]
    """Training examples by (task, seed)."""
    model_path: str | Path
    tokenizer: Any
    say: Callable[[str], None]
    """Prints a line that is a warning, not a fault."""
    notes: list[str] = field(default_factory=list)
    """Warnings that the report repeats."""
    skeleton: Any = None
    """The model on the meta device: classes, shapes and config without weights."""

    def note(self, line: str) -> None:
        """Say a warning, now and in the report."""
        self.notes.append(line)
        self.say(line)


WEIGHT_FILES = (".safetensors", ".bin")
Check = Callable[[Preflight], Iterable[str]]
CHECKS: tuple[Check, ...] = (
    file_faults,
    target_faults,
    continuity_faults,
    score_faults,
    check_answers,
    check_general,
    check_token_ids,
    check_window,
    note_forms,
)
"""In the order in which their faults are listed."""


def preflight(
    config: ExperimentConfig,
    runs: Sequence[RunSpec],
    engine: Engine,
    allow_code: bool = False,
    say: Callable[[str], None] = print,
) -> Preflight:
    """Tasks, data, examples, model and tokenizer, checked. Raises UserError with every fault."""
    faults = model_faults(config, runs)
    suite = None
    examples: dict[tuple[str, int], Sequence[Example]] = {}
    try:
        suite = load_suite(config, engine, allow_code)
        for warning in sandbox_warnings(suite.leaves):
            say(warning)
        examples = _training_examples(config, suite)
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
    found = Preflight(config, runs, suite, examples, path, tokenizer, say, skeleton=skeleton)
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


def _training_examples(
    config: ExperimentConfig, suite: Suite
) -> dict[tuple[str, int], Sequence[Example]]:
    faults: list[str] = []
    examples: dict[tuple[str, int], Sequence[Example]] = {}
    for stage in config.stages:
        name = canonical_name(stage.task)
        for seed in config.seeds:
            try:
                examples[name, seed] = training_examples(suite.stage_tasks[name], stage.limit, seed)
            except UserError as error:
                faults += error.faults
                break
    if faults:
        raise UserError(faults)
    return examples


def contents_of_run(found: Preflight) -> Contents:
    """What the numbers of the run would be made of, for `check_folder`."""
    return contents(found.suite, found.examples, found.model_path, found.say)


def check_folder(found: Preflight, folder: Path, now: Contents) -> list[str]:
    """Raises UserError when the experiment's folder holds results made of other things than `now`.

    Reads only. Returns lines about what cannot be compared.
    """
    config, suite = found.config, found.suite
    limits = {canonical_name(stage.task): stage.limit for stage in config.stages}

    def rows(task: str, seed: int) -> Sequence[Example]:
        return training_examples(suite.stage_tasks[task], limits[task], seed)

    return check_same(folder, config, resolve_runs(config), now, rows)
