"""What is scored: tasks with their data, and which documents of each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl_bench.config.evaluation import ProbesEval
from cl_bench.config.schema import ExperimentConfig, TrainConfig
from cl_bench.data.chat import ask_in, chat_of
from cl_bench.data.examples import sample_documents
from cl_bench.data.loading import load_task_set, load_tasks
from cl_bench.data.own_files.task import OwnTask
from cl_bench.data.tasks import canonical_name, general_name
from cl_bench.errors import UserError, nearest
from cl_bench.evaluation.answer_limits import limit_faults
from cl_bench.evaluation.chat_form import chat_faults, chat_of_model
from cl_bench.evaluation.code.humaneval import code_faults
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.kept import Kept
from cl_bench.evaluation.engines.opened import Subject, engine_faults
from cl_bench.evaluation.ifeval import ifeval_faults
from cl_bench.evaluation.probes.kl import sample_texts
from cl_bench.evaluation.probes.records import DocumentProbe, probes_file, probes_json, read_probes
from cl_bench.evaluation.probes.tasks import Reference, Sampled
from cl_bench.evaluation.recorded import how_measured
from cl_bench.evaluation.sampling import DOCUMENT_SEED, stratified_documents
from cl_bench.evaluation.units import Answer, Unit, answering
from cl_bench.evaluation.unmeasured import ADVICE
from cl_bench.methods.spec import Experiment
from cl_bench.progress import Reporter
from cl_bench.store.partial import PartialScores
from cl_bench.store.seals import check_distributions


@dataclass(frozen=True)
class Suite:
    """Loaded tasks and the documents of each that are scored."""

    stage_tasks: Mapping[str, Any]
    """All that are trained on; those without documents are not scored."""
    general: Mapping[str, Mapping[str, Any]]
    """For each benchmark of General, its leaf tasks (itself, or a group's members)."""
    documents: Mapping[str, Sequence[int]]
    """Document ids by leaf task."""
    curve_documents: Mapping[str, Sequence[int]]
    """The same inside the stages (`eval.within_stage`)."""
    engine: Engine
    probes: ProbesEval | None = None
    own: Mapping[str, OwnTask] = field(default_factory=dict)
    """Of the stage tasks those that are made of the user's own rows."""
    kept: Kept = field(default_factory=Kept)
    """Where a process of the engine waits from one scoring to the next."""

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

    def reference(self, folder: Path, of_base: bool = False) -> Reference | None:
        """Where the base model's distributions are, or are written; None: no probes are made.

        Raises RunError when those that were written are damaged or gone: a divergence from fewer
        texts is another number.
        """
        if self.probes is None or not self.engine.in_memory:
            return None
        if not of_base:
            check_distributions(folder.parent)
            return Reference(folder)
        pools = {
            name: {leaf: self.documents[leaf] for leaf in members}
            for name, members in self.general.items()
        }
        texts = sample_texts(pools, self.probes.kl_texts, DOCUMENT_SEED)
        for name in self.columns:
            own = {name: {name: self.documents[name]}}
            texts |= sample_texts(own, self.probes.kl_task_texts, DOCUMENT_SEED)
        return Reference(folder, Sampled(texts, self.probes.kl_positions, DOCUMENT_SEED))

    def score(
        self,
        subject: Subject,
        units: Sequence[Unit],
        place: Path,
        basis: Mapping[str, Any],
        reporter: Reporter,
        reference: Reference | None = None,
    ) -> dict[str, dict[str, Any]]:
        """`{"trace": {task: ...}, "general": {task: ...}, "probes": ...}`.

        A record per document is written. Without a `reference` there are no probes, `{}`.
        Units that `place` holds already, scored with the same `basis` (what identifies the model),
        are not scored again.
        """
        probes = None if reference is None else reference.depends_on()
        partial = PartialScores(place, {**basis, "engine": str(self.engine), "probes": probes})
        whats = [unit.depends_on() for unit in units]
        entries = [
            partial.load(unit.part, unit.name, what)
            for unit, what in zip(units, whats, strict=True)
        ]
        missing = [i for i, entry in enumerate(entries) if entry is None]
        for unit, entry in zip(units, entries, strict=True):
            if entry is not None:
                reporter.answered(unit.name, entry, now=False)
        if missing:
            reporter.tasks(len(units), sum(units[i].size for i in missing))
            began = time.perf_counter()
            say, kept = reporter.once, self.kept
            with answering(self.engine, subject, reporter.scored, reference, say, kept) as answer:
                for i in missing:
                    reporter.task(units[i].name, i + 1, units[i].size)
                    found, now = answer(units[i]), time.perf_counter()
                    entries[i] = entry = _keep(partial, units[i], whats[i], found, now - began)
                    reporter.answered(units[i].name, entry)
                    for line in _not_measured(units[i], entry, found):
                        reporter.line(line)
                    began = now
        scores = {
            part: {u.name: e for u, e in zip(units, entries, strict=True) if u.part == part}
            for part in ("trace", "general")
        }
        return {**scores, "probes": self._probes(units, place, reference)}

    def _probes(
        self, units: Sequence[Unit], place: Path, reference: Reference | None
    ) -> dict[str, Any]:
        if reference is not None:
            return _probes(units, place)
        if self.probes is None:
            return {}
        return {"not_measured": f"engine `{self.engine}` does not answer with the model in memory"}


def leaves_named(suite: Suite, config: ExperimentConfig, name: str) -> Mapping[str, Any]:
    """The leaf tasks of a stage task, benchmark or leaf; a benchmark that is not scored is loaded.

    Raises UserError for a name that the config does not have.
    """
    if (own := canonical_name(name)) in suite.stage_tasks:
        return {own: suite.stage_tasks[own]}
    if name in suite.general:
        return suite.general[name]
    if name in suite.leaves:
        return {name: suite.leaves[name]}
    asked = config.eval.general.tasks
    if name not in asked:
        known = [*suite.stage_tasks, *asked, *suite.leaves]
        raise UserError(f"{name}: no task of this config{nearest(name, known)}")
    task = general_name(name, config.task_paths, config.eval.general.protocol)
    found = load_tasks([task], config.data_root, config.task_paths)
    chats = [chat for each in suite.leaves.values() if (chat := chat_of(each)) is not None]
    if chats:
        ask_in(chats[0], found)
    return found


def _probes(units: Sequence[Unit], place: Path) -> dict[str, Any]:
    """From the records on disk: those of units that are not scored again are nowhere else."""
    found: dict[str, dict[str, list[DocumentProbe]]] = {"trace": {}, "general": {}}
    for unit in units:
        files = [probes_file(place / "predictions", leaf) for leaf in unit.tasks]
        found[unit.part][unit.name] = [probe for file in files for probe in read_probes(file)]
    return probes_json(found["trace"], found["general"])


def _not_measured(unit: Unit, entry: Mapping[str, Any], answer: Answer) -> Iterator[str]:
    """What is said of a unit that has no score, or whose probes have no mean."""
    reasons = {unit.name: entry["not_measured"]} if "not_measured" in entry else {}
    if not reasons:
        probes = [probe for result in answer.results.values() for probe in result.probes]
        for probe in probes:
            for key, why in (probe.not_finite or {}).items():
                reasons.setdefault(f"{unit.name}, probe {key}", why)
    for what, why in reasons.items():
        yield f"warning: {what}: not measured: {why} (it comes from {ADVICE})"


def _keep(
    partial: PartialScores,
    unit: Unit,
    what: Mapping[str, Any],
    answer: Answer,
    seconds: float,
) -> dict[str, Any]:
    """The unit's entry, after it and the records are on disk."""
    found = answer.results
    entry = unit.entry(answer)
    if unit.part == "general":
        entry["measured"] = how_measured(unit.tasks, found)
    records = {leaf: result.records for leaf, result in found.items()}
    for leaf, result in found.items():
        if result.probes:
            records[f"{leaf}.probes"] = [probe.to_json() for probe in result.probes]
    partial.keep(unit.part, unit.name, what, entry, records, seconds)
    return entry


def load_suite(experiment: Experiment, engine: Engine, allow_code: bool = False) -> Suite:
    """Load every task of the config. Raises UserError with the faults of all of them.

    Without `allow_code` tasks that run what the model writes are a fault.
    """
    config = experiment.config
    if faults := engine_faults(engine):
        raise UserError(faults)
    if config.eval.within_stage is not None and not engine.in_memory:
        raise UserError(
            f"eval.within_stage: a model in training can be scored in memory only, and --engine "
            f"{engine} loads checkpoints: use cl-bench or hf, or -o eval.within_stage=null"
        )
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
    return Suite(tasks, members, documents, curve, engine, config.eval.probes, loaded.own)


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
