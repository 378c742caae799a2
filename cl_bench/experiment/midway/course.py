"""How far the training of a stage is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Course:
    """Counted in updates; `phase` from 0."""

    phase: int = -1
    updates: int = 0
    """Of the phase."""
    done: int = 0
    """Of the stage."""
    total: int = 0
    """Of the stage up to the end of the phase: later phases may depend on it."""
    record: dict[str, Any] = field(default_factory=dict)
    """The last line of train.jsonl."""
    ends_epoch: bool = False
    """Whether that update was the last of an epoch."""
    silent: dict[str, bool] = field(default_factory=dict)
    """For each epoch so far (`phase/epoch`) whether all gradients were exactly 0."""

    pieces: int = 1
    """Into how many each micro-batch is cut since memory did not suffice."""

    def enter(self, phase: int, updates: int) -> None:
        """Begin a phase of so many updates."""
        self.phase, self.updates, self.total = phase, 0, self.total + updates

    def count(self, record: Mapping[str, Any], ends_epoch: bool) -> dict[str, Any]:
        """One update more; returns its line."""
        self.updates, self.done = self.updates + 1, self.done + 1
        self.record, self.ends_epoch = {"step": self.done, **record}, ends_epoch
        epoch = f"{record['phase']}/{record['epoch']}"
        self.silent[epoch] = self.silent.get(epoch, True) and not record["grad_norm"]
        return self.record

    @property
    def dead_epochs(self) -> list[str]:
        """Epochs without any gradient."""
        return [key.partition("/")[2] for key, silent in self.silent.items() if silent]
