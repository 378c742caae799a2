"""What all stages of an experiment share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cl_bench.config.schema import ExperimentConfig
from cl_bench.data.examples import Example
from cl_bench.evaluation.suite import Suite
from cl_bench.experiment.midway.stops import Stops
from cl_bench.experiment.processes import Processes
from cl_bench.methods.spec import Experiment
from cl_bench.progress import Reporter


@dataclass(frozen=True)
class Workplace:
    """What all stages of an experiment share."""

    experiment: Experiment
    suite: Suite
    examples: Mapping[tuple[str, int | None, int], Sequence[Example]]
    """Training examples by (task, limit, seed)."""
    device: torch.device
    processes: Processes
    reporter: Reporter
    stops: Stops = field(default_factory=Stops)

    @property
    def config(self) -> ExperimentConfig:
        """As it was read."""
        return self.experiment.config

    @property
    def first_process(self) -> bool:
        """Only this one writes files and scores."""
        return self.processes.rank == 0
