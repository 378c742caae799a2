"""What is scored: tasks with their data, and which documents of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.config import ExperimentConfig, TrainConfig
from cl_bench.data.examples import sample_documents
from cl_bench.data.loading import load_suite as load_task_suite
from cl_bench.data.tasks import canonical_name, general_name
from cl_bench.errors import UserError
from cl_bench.evaluation.engines import engine_fault
from cl_bench.evaluation.harness import TaskResult, group_json
from cl_bench.evaluation.measured import how_measured
from cl_bench.evaluation.sampling import DOCUMENT_SEED, stratified_documents
from cl_bench.evaluation.units import Unit, answering
from cl_bench.partial import PartialScores
from cl_bench.progress import Reporter


@dataclass(frozen=True)
class Suite:
    """Loaded tasks and the documents of each that are scored."""

    stage_tasks: Mapping[str, Any]
    general: Mapping[str, Mapping[str, Any]]
    """For each benchmark of General, its leaf tasks (itself, or a group's members)."""
    documents: Mapping[str, Sequence[int]]
    """Document ids by leaf task."""
    engine: str

    def units(self, stage_names: Sequence[str], general: bool, train: TrainConfig) -> list[Unit]:
        """The stage tasks of these names, then General's benchmarks if asked for."""
        units = [
            Unit("trace", name, {name: self.stage_tasks[name]}, self.documents, train)
            for name in stage_names
        ]
        benchmarks = self.general if general else {}
        return units + [
            Unit("general", name, members, self.documents) for name, members in benchmarks.items()
        ]

    def score(
        self,
        model: Any,
        tokenizer: Any,
        units: Sequence[Unit],
        place: Path,
        basis: Mapping[str, Any],
        reporter: Reporter,
    ) -> dict[str, dict[str, Any]]:
        """`{"trace": {task: ...}, "general": {task: ...}}`; a record per document is written.

        Units that `place` holds already, scored with the same `basis` (what identifies the model),
        are not scored again.
        """
        partial = PartialScores(place, {**basis, "engine": self.engine})
        whats = [unit.depends_on() for unit in units]
        entries = [
            partial.load(unit.part, unit.name, what)
            for unit, what in zip(units, whats, strict=True)
        ]
        missing = [i for i, entry in enumerate(entries) if entry is None]
        if missing:
            reporter.tasks(len(units), sum(units[i].size for i in missing))
            with answering(self.engine, model, tokenizer, reporter.scored) as answer:
                for i in missing:
                    reporter.task(units[i].name, i + 1, units[i].size)
                    entries[i] = _keep(partial, units[i], whats[i], answer(units[i]))
        return {
            part: {u.name: e for u, e in zip(units, entries, strict=True) if u.part == part}
            for part in ("trace", "general")
        }


def _keep(
    partial: PartialScores, unit: Unit, what: Mapping[str, Any], found: Mapping[str, TaskResult]
) -> dict[str, Any]:
    """The unit's entry, after it and the records are on disk."""
    sizes = {leaf: len(task.eval_docs) for leaf, task in unit.tasks.items()}
    entry = group_json(found, sizes)
    if unit.part == "general":
        entry["measured"] = how_measured(unit.tasks, found)
    records = {leaf: result.records for leaf, result in found.items()}
    partial.keep(unit.part, unit.name, what, entry, records)
    return entry


def load_suite(config: ExperimentConfig, engine: str) -> Suite:
    """Load every task of the config. Raises UserError with the faults of all of them."""
    if fault := engine_fault(engine):
        raise UserError(fault)
    stages = {canonical_name(stage.task): stage for stage in config.stages}
    general = config.eval.general
    benchmarks = _benchmarks(config)
    loaded = load_task_suite(
        [*stages, *benchmarks.values()],
        data_root=config.data_root,
        task_paths=config.task_paths,
        require_training=list(stages),
    )
    documents: dict[str, Sequence[int]] = {}
    members: dict[str, dict[str, Any]] = {}
    for name, task in benchmarks.items():
        members[name] = {leaf: loaded.tasks[leaf] for leaf in loaded.members[task]}
        documents |= stratified_documents(members[name], general.documents_of(name))
    for name, stage in stages.items():
        limit = stage.test_limit or config.eval.trace.limit
        documents[name] = sample_documents(loaded.tasks[name], limit, DOCUMENT_SEED)
    return Suite({name: loaded.tasks[name] for name in stages}, members, documents, engine)


def _benchmarks(config: ExperimentConfig) -> dict[str, str]:
    """The task of every name in `eval.general.tasks`."""
    general = config.eval.general
    found: dict[str, str] = {}
    faults: list[str] = []
    for name in general.tasks if general.after != "never" else ():
        try:
            found[name] = general_name(name, config.task_paths, general.protocol)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return found


def cells_to_score(config: ExperimentConfig, index: int, tasks: Sequence[str]) -> list[str]:
    """Which columns of the matrix are scored after stage `index` (1-based)."""
    names = [canonical_name(stage.task) for stage in config.stages]
    trace, last = config.eval.trace, index == len(names)
    if trace.after == "never" or (trace.after == "last" and not last):
        return []
    if trace.cells == "all":
        return names
    if trace.cells == "lower" or last:
        return names[:index]
    return [name for name in names if name in tasks]


def general_after(config: ExperimentConfig, index: int) -> bool:
    """Whether General is scored after stage `index`."""
    after = config.eval.general.after
    return after == "every" or (after == "last" and index == len(config.stages))
