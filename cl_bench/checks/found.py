"""What the checks before a run look at, and what the run starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.config.schema import ExperimentConfig
from cl_bench.data.examples import Example
from cl_bench.methods.spec import Experiment, RunSpec

if TYPE_CHECKING:
    from cl_bench.evaluation.suite import Suite


@dataclass(frozen=True)
class Preflight:
    """What the checks look at, and afterwards what the run starts from."""

    experiment: Experiment
    suite: Suite
    examples: Examples
    model_path: str | Path
    tokenizer: Any
    say: Callable[[str], None]
    """Prints a line that is a warning, not a fault."""
    notes: list[str] = field(default_factory=list)
    """Warnings that the report repeats."""
    skeleton: Any = None
    """The model on the meta device: classes, shapes and config without weights."""
    device: str | None = None
    """The kind of device that the run computes on; None where nothing is run."""

    @property
    def config(self) -> ExperimentConfig:
        """As it was read."""
        return self.experiment.config

    @property
    def runs(self) -> Sequence[RunSpec]:
        """Those that `--method` leaves."""
        return self.experiment.chosen

    def trained_on(self, task: str, seed: int) -> Sequence[Example]:
        """All examples of a task that any of the config's stages sees."""
        return self.examples[task, self.experiment.limit_of(task), seed]

    def note(self, line: str) -> None:
        """Say a warning, now and in the report."""
        self.notes.append(line)
        self.say(line)


Examples = Mapping[tuple[str, int | None, int], Sequence[Example]]
"""Training examples by (task, limit, seed)."""
