"""The two models of a gate: what they answer is kept by content, their weights as memory allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.config.schema import slug
from cl_bench.errors import RunError
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.opened import Subject
from cl_bench.evaluation.shared_prefix.sharing_trial import free_bytes
from cl_bench.evaluation.units import Answer, Unit, answering
from cl_bench.models.any_folder import any_contents
from cl_bench.models.load import load_model, resolve_model_path
from cl_bench.progress import Reporter
from cl_bench.store.folders import read_records, sha256_of
from cl_bench.store.partial import PartialScores

if TYPE_CHECKING:
    import torch

GATES = "gates"
"""The folder below `results/` that holds what models answered in gates."""
ROOM = 2
"""Times the weights of one model that must be free for the other to be loaded beside it: they, and
what passes need."""
Scores = dict[str, dict[int, float]]
"""By leaf task and document, 0-1."""


@dataclass
class Side:
    """One model. What it answered is in `results/gates/<name>-<id>/look-<n>/`.

    The id is fixed by its weights, dtype and engine, and each entry by documents and definitions,
    so that a gate goes on where it was interrupted, and the next gate against the same model finds
    what it answered in this one.
    """

    path: str
    dtype: str
    engine: Engine
    results: Path
    reporter: Reporter
    opened: ExitStack = field(default_factory=ExitStack)
    subject: Subject | None = None
    """The loaded model."""
    answer: Callable[[Unit], Answer] | None = None

    @cached_property
    def basis(self) -> dict[str, Any]:
        """What all of its scores depend on."""
        return {
            "model": {**any_contents(self.path), "dtype": self.dtype},
            "engine": str(self.engine),
            "harness_version": version("lm_eval"),
        }

    @cached_property
    def folder(self) -> Path:
        """Where its answers are kept."""
        name = Path(self.path).resolve().name if Path(self.path).is_dir() else self.path
        return self.results / GATES / f"{slug(name)[:60]}-{sha256_of(self.basis)[:8]}"

    def kept(self, unit: Unit, look: int) -> Scores | None:
        """Scores that an earlier start has left; None where there are none."""
        place = self._place(look)
        if place.load(unit.part, unit.name, unit.depends_on()) is None:
            return None
        return {
            leaf: {
                record["doc_id"]: record["score"]
                for record in read_records(place.place / f"predictions/{leaf}.jsonl")
            }
            for leaf in unit.tasks
        }

    def scores(self, unit: Unit, look: int) -> Scores:
        """Scored now, by the model that is loaded. Raises RunError for what is not measured."""
        assert self.answer is not None
        began = time.monotonic()
        self.reporter.task(f"{unit.name} ({Path(self.path).name})", look + 1, unit.size)
        found = self.answer(unit)
        for result in found.results.values():
            if result.not_measured is not None:
                raise RunError(f"{unit.name}: not measured: {result.not_measured}")
        records = {leaf: result.records for leaf, result in found.results.items()}
        entry, seconds = unit.entry(found), time.monotonic() - began
        self._place(look).keep(unit.part, unit.name, unit.depends_on(), entry, records, seconds)
        return {
            leaf: {record["doc_id"]: record["score"] for record in own}
            for leaf, own in records.items()
        }

    def _place(self, look: int) -> PartialScores:
        return PartialScores(self.folder / f"look-{look + 1}", self.basis)

    def load(self, device: torch.device) -> None:
        """Into memory, ready to answer."""
        self.reporter.line(f"loading {self.path}")
        source = resolve_model_path(self.path, self.reporter.line)
        self.subject = Subject(*load_model(source, self.dtype, str(device)), Path(source))
        say = (self.reporter.scored, None, self.reporter.once)
        self.answer = self.opened.enter_context(answering(self.engine, self.subject, *say))

    def release(self, device: torch.device) -> None:
        """Out of memory, if it is there."""
        from cl_bench.device_memory import free_memory

        self.answer = self.subject = None
        self.opened.close()
        free_memory(device)


@dataclass
class Sides:
    """OLD and NEW. Both stay loaded where memory has room for it; else each look loads one after
    the other, and begins with the one that is there."""

    sides: Sequence[Side]
    device: torch.device

    def scores(self, units: Sequence[Unit], look: int) -> list[Mapping[str, Scores]]:
        """What OLD and NEW score in the units of a look, by their names."""
        found: dict[int, dict[str, Scores]] = {}
        for place in sorted((0, 1), key=lambda at: self.sides[at].subject is None):
            side = self.sides[place]
            known = {unit.name: side.kept(unit, look) for unit in units}
            if None in known.values():
                self._ready(side)
            found[place] = {
                unit.name: side.scores(unit, look) if (own := known[unit.name]) is None else own
                for unit in units
            }
        return [found[0], found[1]]

    def _ready(self, side: Side) -> None:
        if side.subject is not None:
            return
        for other in self.sides:
            if other is not side and other.subject is not None and not self._fits(other):
                other.release(self.device)
        side.load(self.device)

    def _fits(self, other: Side) -> bool:
        """Whether a model as large as another one that is loaded has room beside it."""
        assert other.subject is not None
        if not other.engine.in_memory:
            return False  # each would start a process that takes what memory there is
        weights = sum(p.numel() * p.element_size() for p in other.subject.model.parameters())
        return bool(ROOM * weights <= free_bytes(self.device))

    def release(self) -> None:
        """Both."""
        for side in self.sides:
            side.release(self.device)
