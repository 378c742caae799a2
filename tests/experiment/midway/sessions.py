"""A stage that is trained in several sessions, each of which is told to stop somewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.config.schema import TrainConfig
from cl_bench.data.examples import Example
from cl_bench.experiment.loop import train_stage
from cl_bench.experiment.midway.pace import Every, Pace
from cl_bench.experiment.midway.passes import Passes
from cl_bench.experiment.midway.places import Places
from cl_bench.experiment.midway.saves import Saves
from cl_bench.experiment.midway.stops import StoppedError, Stops
from cl_bench.experiment.processes import Processes
from cl_bench.experiment.stage_training import seed_everything
from cl_bench.methods.base import Method
from cl_bench.methods.state import State, give_state, handed_on, state_of
from cl_bench.store.folders import append_line, read_records, there
from tests.helpers.reference import make_stage, weights
from tests.helpers.sequences import Shelf

ALONE = Processes(0, 1, lambda tensor: None)
ON = Every(seconds=1e9)
"""Saves where it is told to stop, and not otherwise."""


class StopsAt(Stops):
    """Says that the run was told to stop from the n-th time on that somebody looks."""

    def __init__(self, looks: int | None) -> None:
        self._left, self._waiting = looks, 0

    @property
    def asked(self) -> bool:  # type: ignore[override]
        if self._left is not None:
            self._left -= 1
        return self._left is not None and self._left < 0

    @asked.setter
    def asked(self, value: bool) -> None:
        raise AssertionError("only signals set it")


@dataclass
class Beginning:
    """Where a stage begins."""

    make: Callable[[], Method]
    model: nn.Module
    examples: list[Example]
    train: TrainConfig
    index: int = 1
    state: State = field(default_factory=State)
    shelf: Shelf = field(default_factory=Shelf)
    earlier: Sequence[tuple[str, Sequence[Example]]] = ()
    epochs: int = 2


@dataclass
class Left:
    """What a stage leaves, and in how many sessions it was trained."""

    model: nn.Module
    weights: Mapping[str, Tensor]
    notes: Mapping[str, Any]
    state: State
    records: list[dict[str, Any]]
    sessions: int
    warnings: list[str]

    def is_that_of(self, other: Left) -> None:
        """Assert that both are the same to the bit."""
        assert self.records == other.records
        assert self.notes == other.notes
        assert self.weights.keys() == other.weights.keys()
        for name, value in self.weights.items():
            assert torch.equal(value, other.weights[name]), name
        assert self.state.records == other.state.records
        assert self.state.tensors.keys() == other.state.tensors.keys()
        for name, value in self.state.tensors.items():
            assert torch.equal(value, other.state.tensors[name]), name


def trained(start: Beginning, folder: Path, looks: int | None = None, every: Every = ON) -> Left:
    """Train the stage, each session being told to stop at its n-th look; None: in one."""
    warnings: list[str] = []
    for session in range(1, 60):
        seed_everything(start.index)
        method = start.make()
        give_state(method, copy.deepcopy(start.state))
        stage, batcher = make_stage(
            copy.deepcopy(start.model), start.examples, start.train, start.index, start.earlier
        )
        stage.library, stage.epochs = start.shelf, start.epochs
        stage.scratch = folder / "scratch"
        places = Places(folder, ALONE, warnings.append)
        logged = places.open({"settings": "these"})
        shared = (places, {"settings": "these"}, Pace(every), StopsAt(looks), torch.device("cpu"))
        saves, stage.passed = Saves(*shared), Passes(*shared).passed

        def on_step(record: dict[str, Any], total: int, logged: int = logged) -> None:
            if record["step"] > logged:
                append_line(folder / "train.jsonl", record)

        try:
            train_stage(stage, method, batcher, on_step, None, saves)
        except StoppedError:
            continue
        own = handed_on(method, start.state, state_of(method))
        log = folder / "train.jsonl"
        records = read_records(log) if there(log) else []
        return Left(stage.model, weights(stage.model), stage.notes, own, records, session, warnings)
    raise AssertionError("it does not get on")
