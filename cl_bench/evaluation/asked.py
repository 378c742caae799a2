"""What is asked: tasks with their data, and which documents of each. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cl_bench.config.schema import ExperimentConfig
from cl_bench.data.chat import ask_in, chat_of
from cl_bench.data.examples import sample_documents
from cl_bench.data.loading import load_task_set, load_tasks
from cl_bench.data.own_files.task import OwnTask
from cl_bench.data.tasks import canonical_name, general_name
from cl_bench.errors import UserError, nearest
from cl_bench.evaluation.answer_limits import limit_faults
from cl_bench.evaluation.chat_form import chat_faults, chat_of_model
from cl_bench.evaluation.code.humaneval import code_faults
from cl_bench.evaluation.ifeval import ifeval_faults
from cl_bench.evaluation.sampling import DOCUMENT_SEED, stratified_documents
from cl_bench.methods.spec import Experiment


@dataclass(frozen=True)
class Asked:
    """Loaded tasks and the documents of each that are scored."""

    stage_tasks: Mapping[str, Any]
    """All that are trained on; those without documents are not scored."""
    general: Mapping[str, Mapping[str, Any]]
    """For each benchmark of General, its leaf tasks (itself, or a group's members)."""
    documents: Mapping[str, Sequence[int]]
    """Document ids by leaf task."""
    curve_documents: Mapping[str, Sequence[int]]
    """The same inside the stages (`eval.within_stage`)."""
    own: Mapping[str, OwnTask] = field(default_factory=dict, kw_only=True)
    """Of the stage tasks those that are made of the user's own rows."""

    @property
    def leaves(self) -> dict[str, Any]:
        """Every loaded leaf task, of the stages and of General."""
        members = [task for group in self.general.values() for task in group.items()]
        return {**self.stage_tasks, **dict(members)}

    @property
    def scored(self) -> dict[str, Any]:
        """The leaf tasks that have documents to score."""
        return {name: task for name, task in self.leaves.items() if name in self.documents}

    @property
    def columns(self) -> list[str]:
        """The stage tasks that are scored, in order."""
        return [name for name in self.stage_tasks if name in self.documents]


def load_asked(experiment: Experiment, allow_code: bool = False) -> Asked:
    """Load every task of the config. Raises UserError with the faults of all of them.

    Without `allow_code` tasks that run what the model writes are a fault.
    """
    config = experiment.config
    stages = [task.name for task in experiment.tasks]
    if unknown := _unknown_curve_tasks(experiment):
        raise UserError(unknown)
    benchmarks = _benchmarks(config)
    loaded = load_task_set(
        [*stages, *benchmarks.values()],
        data_root=config.data_root,
        task_paths=config.task_paths,
        require_training=stages,
        train_only=[task.name for task in experiment.tasks if not task.scored],
        own=experiment.own,
    )
    within = config.eval.within_stage
    fewer = within.limit if within else None
    chat, wrong = chat_of_model(config.model)
    faults = [*wrong, *code_faults(loaded.tasks, allow_code), *limit_faults(loaded.tasks)]
    faults += ifeval_faults(loaded.tasks)
    if chat is not None:
        faults += chat_faults(loaded.tasks, experiment)
    if faults:
        raise UserError(faults)
    if chat is not None:
        ask_in(chat, loaded.tasks)
    tasks = {name: loaded.tasks[name] for name in stages}
    members = {
        name: {leaf: loaded.tasks[leaf] for leaf in loaded.members[task]}
        for name, task in benchmarks.items()
    }
    documents = chosen_documents(experiment, tasks, members)
    curve = chosen_documents(experiment, tasks, members, fewer)
    return Asked(tasks, members, documents, curve, own=loaded.own)


def chosen_documents(
    experiment: Experiment,
    stage_tasks: Mapping[str, Any],
    general: Mapping[str, Mapping[str, Any]],
    at_most: int | None = None,
) -> dict[str, Sequence[int]]:
    """Document ids by leaf task, as the config's limits say, or another limit."""
    evaluation = experiment.config.eval
    found: dict[str, Sequence[int]] = {}
    for name, members in general.items():
        found |= stratified_documents(members, at_most or evaluation.general.documents_of(name))
    for task in experiment.tasks:
        if task.scored and task.name in stage_tasks:
            limit = at_most or task.test_limit or evaluation.trace.limit
            found[task.name] = sample_documents(stage_tasks[task.name], limit, DOCUMENT_SEED)
    return found


def _benchmarks(config: ExperimentConfig) -> dict[str, str]:
    """The task of every name in `eval.general.tasks` that is scored after or inside a stage."""
    general, within = config.eval.general, config.eval.within_stage
    inside = (within.tasks or []) if within else []
    wanted = [name for name in general.tasks if general.after != "never" or name in inside]
    found: dict[str, str] = {}
    faults: list[str] = []
    for name in wanted:
        try:
            found[name] = general_name(name, config.task_paths, general.protocol)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return found


def _unknown_curve_tasks(experiment: Experiment) -> list[str]:
    config = experiment.config
    within = config.eval.within_stage
    known = [*experiment.columns, *config.eval.general.tasks]
    return [
        f"eval.within_stage.tasks: {name}: neither a stage task that is scored nor in "
        f"eval.general.tasks{nearest(name, known)}"
        for name in map(canonical_name, (within.tasks or []) if within else [])
        if name not in known
    ]


def leaves_named(asked: Asked, config: ExperimentConfig, name: str) -> Mapping[str, Any]:
    """The leaf tasks of a stage task, benchmark or leaf; a benchmark that is not scored is loaded.

    Raises UserError for a name that the config does not have.
    """
    if (own := canonical_name(name)) in asked.stage_tasks:
        return {own: asked.stage_tasks[own]}
    if name in asked.general:
        return asked.general[name]
    if name in asked.leaves:
        return {name: asked.leaves[name]}
    benchmarks = config.eval.general.tasks
    if name not in benchmarks:
        known = [*asked.stage_tasks, *benchmarks, *asked.leaves]
        raise UserError(f"{name}: no task of this config{nearest(name, known)}")
    task = general_name(name, config.task_paths, config.eval.general.protocol)
    found = load_tasks([task], config.data_root, config.task_paths)
    chats = [chat for each in asked.leaves.values() if (chat := chat_of(each)) is not None]
    if chats:
        ask_in(chats[0], found)
    return found
