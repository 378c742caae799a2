"""What a tracker is: begin, step, scores, end. All of it may fail; the run goes on without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True)
class TrackedRun:
    """One run (a method with a seed), as trackers are told of it."""

    experiment: str
    name: str
    """`fggm, seed 42`."""
    folder: Path
    """Where this tracker may keep files: one folder an experiment for each tracker."""
    slug: str
    """`fggm/seed-42`: the run's folder below `folder`, where a tracker wants one."""
    config: Mapping[str, Any]
    """What `run.json` says that the run is bound to: model, stages, method, training."""
    id: str | None
    """What `begin` returned when the run was begun; None the first time."""


class Tracker(Protocol):
    """One tracker's side of one run. `begin` is called first, once in each session of the run."""

    package: ClassVar[str]
    """The module that must be there."""
    install: ClassVar[str]
    """What pip is told to get it."""

    def begin(self, run: TrackedRun) -> str:
        """Open the run, or go on with the one of `run.id`; returns the id to go on with later."""

    def step(self, stage: str, update: int, values: Mapping[str, float]) -> None:
        """One update of a stage (`2-trace_fomc`): loss, learning rate, gradient norm, tokens."""

    def scores(self, stage: int, values: Mapping[str, float]) -> None:
        """Percentages after a stage (0: the base model): each task, `General`, `OP`."""

    def end(self, state: str) -> None:
        """`finished`, `interrupted`, `diverged` or `failed`; everything is written out."""
