"""Scores in the middle of a stage: `curve.jsonl`, a line for each point of the training.

A line is `{"step", "epoch", "phase", "trace": {task: {score, stderr, n}}, "general": {...}}` with
scores of 0-1, null with the reason in `not_measured` where there is none; step 0 is the model that
the stage began with (after the method's `prepare`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cl_bench.config.evaluation import WithinStage
from cl_bench.evaluation.crew import Crew, help_first, helped
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.opened import Subject
from cl_bench.evaluation.suite import Suite
from cl_bench.evaluation.units import Unit, answering, help_answer
from cl_bench.methods.spec import StageSpec
from cl_bench.progress import Reporter
from cl_bench.store.folders import append_line

CURVE = "curve.jsonl"
KEYS = ("score", "stderr", "n", "not_measured")


@dataclass
class Curve:
    """Scores the model whenever a point is due."""

    file: Path
    every: Literal["epoch"] | int
    units: Sequence[Unit]
    engine: Engine
    tokenizer: Any
    reporter: Reporter
    crew: Crew | None = None
    """The processes that train together; the first one scores and writes, the others help."""
    seconds: float = 0.0
    """Spent so far."""
    scored: int = -1
    """The last point's update: what an interrupted stage has is not scored again."""

    def due(self, step: int, total: int, ends_epoch: bool) -> bool:
        """Before the first update, after each epoch or so many updates, and after the last."""
        if step <= self.scored:
            return False
        if step in (0, total):
            return True
        return ends_epoch if self.every == "epoch" else step % self.every == 0

    def score(self, record: Mapping[str, Any], model: Any) -> None:
        """Append the point after the update of this record."""
        self.scored = record["step"]
        crew = self.crew
        if crew is not None and crew.rank:
            help_first(crew, lambda: help_answer(lambda: (model, self.tokenizer), crew))
            return
        with nullcontext() if crew is None else helped(crew):
            self._append(record, model)

    def _append(self, record: Mapping[str, Any], model: Any) -> None:
        began = time.perf_counter()
        point: dict[str, Any] = {key: record[key] for key in ("step", "epoch", "phase")}
        point |= {"trace": {}, "general": {}}
        self.reporter.tasks(len(self.units), sum(unit.size for unit in self.units))
        subject = Subject(model, self.tokenizer)
        report = self.reporter.scored
        with answering(self.engine, subject, report, crew=self.crew) as answer:
            for number, unit in enumerate(self.units, 1):
                self.reporter.task(unit.name, number, unit.size)
                entry = unit.entry(answer(unit))
                point[unit.part][unit.name] = {k: entry[k] for k in KEYS if k in entry}
        append_line(self.file, point)
        self.seconds += time.perf_counter() - began


def stage_curve(
    within: WithinStage | None,
    suite: Suite,
    spec: StageSpec,
    folder: Path,
    tokenizer: Any,
    reporter: Reporter,
    crew: Crew | None = None,
) -> Curve | None:
    """The curve of a stage; None where the config asks for none, or for no task yet."""
    if within is None:
        return None
    units = [
        replace(unit, documents=suite.curve_documents)
        for unit in suite.units(suite.columns, True, spec.train)
        if unit.name in spec.scored.inside
    ]
    if not units:
        return None
    return Curve(folder / CURVE, within.every, units, suite.engine, tokenizer, reporter, crew)
