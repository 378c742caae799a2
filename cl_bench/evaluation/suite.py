"""What is scored: tasks with their data, and which documents of each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl_bench.config.evaluation import ProbesEval
from cl_bench.config.schema import TrainConfig
from cl_bench.errors import UserError
from cl_bench.evaluation.asked import Asked, load_asked
from cl_bench.evaluation.crew import Crew
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.kept import Kept
from cl_bench.evaluation.engines.opened import Subject, engine_faults
from cl_bench.evaluation.probes.kl import sample_texts
from cl_bench.evaluation.probes.records import DocumentProbe, probes_file, probes_json, read_probes
from cl_bench.evaluation.probes.tasks import Reference, Sampled
from cl_bench.evaluation.recorded import how_measured
from cl_bench.evaluation.sampling import DOCUMENT_SEED
from cl_bench.evaluation.units import Answer, Unit, answering
from cl_bench.evaluation.unmeasured import ADVICE
from cl_bench.methods.spec import Experiment
from cl_bench.progress import Reporter
from cl_bench.store.partial import PartialScores
from cl_bench.store.seals import check_distributions


@dataclass(frozen=True)
class Suite(Asked):
    """What is asked of a model, and the engine that answers."""

    engine: Engine
    probes: ProbesEval | None = None
    kept: Kept = field(default_factory=Kept)
    """Where a process of the engine waits from one scoring to the next."""

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
        crew: Crew | None = None,
    ) -> dict[str, dict[str, Any]]:
        """`{"trace": {task: ...}, "general": {task: ...}, "probes": ...}`.

        A record per document is written. Without a `reference` there are no probes, `{}`.
        Units that `place` holds already, scored with the same `basis` (what identifies the model),
        are not scored again. Of a `crew` this is the first process.
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
            rest = (reporter.once, self.kept, crew)
            with answering(self.engine, subject, reporter.scored, reference, *rest) as answer:
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
    """`load_asked`, for an engine. Raises UserError with the faults of all of it."""
    config = experiment.config
    if faults := engine_faults(engine):
        raise UserError(faults)
    if config.eval.within_stage is not None and not engine.in_memory:
        raise UserError(
            f"eval.within_stage: a model in training can be scored in memory only, and --engine "
            f"{engine} loads checkpoints: use cl-bench or hf, or -o eval.within_stage=null"
        )
    asked = load_asked(experiment, allow_code)
    return Suite(**vars(asked), engine=engine, probes=config.eval.probes)
