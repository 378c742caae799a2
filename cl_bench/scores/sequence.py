"""What a sequence of stages means for the matrix: who teaches a column, and what a model has seen.

The same answers for stages that are resolved (`methods/spec.py`) and for those that a `run.json`
records. No torch.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cl_bench.scores.matrix import Setting


class Teaches(Protocol):
    """A stage, as far as the matrix is concerned."""

    @property
    def index(self) -> int:
        """Its number, from 1."""

    @property
    def tasks(self) -> Sequence[str]:
        """What it trains on."""

    @property
    def start(self) -> str:
        """`previous` or `base`."""


def stage_folder(index: int, tasks: Sequence[str]) -> str:
    """`stage-1-trace_cstance`, or `stage-1-joint` for several tasks at once."""
    return f"stage-{index}-{tasks[0] if len(tasks) == 1 else 'joint'}"


@dataclass(frozen=True)
class Recorded:
    """A stage of a `run.json`."""

    index: int
    tasks: tuple[str, ...]
    start: str
    train: Mapping[str, Any] = field(default_factory=dict)
    """As it was trained: the values of `train:`."""

    @property
    def folder(self) -> str:
        """Its folder in that of the run."""
        return stage_folder(self.index, self.tasks)

    @classmethod
    def all_of(cls, config: Mapping[str, Any]) -> list[Recorded]:
        """The stages of the settings that a `run.json` records."""
        return [
            cls(stage["index"], tuple(stage["tasks"]), stage["start"], stage.get("train", {}))
            for stage in config["stages"]
        ]


def visits(stages: Iterable[Teaches]) -> dict[str, list[int]]:
    """Numbers of the stages that train on each task, in the order in which tasks are first met."""
    found: dict[str, list[int]] = {}
    for stage in stages:
        for task in stage.tasks:
            found.setdefault(task, []).append(stage.index)
    return found


def lineage(stages: Sequence[Teaches], position: int) -> range:
    """Positions of the stages that made the model after a stage: from the last start at the base
    model on, itself included.
    """
    first = position
    while first and stages[first].start != "base":
        first -= 1
    return range(first, position + 1)


def learned(stages: Sequence[Teaches], position: int) -> list[str]:
    """Every task once that the model after a stage was trained on, oldest first."""
    return list(visits(stages[i] for i in lineage(stages, position)))


def setting_of(stages: Sequence[Teaches]) -> Setting:
    """Whether stages follow one another, each start from the base model, or are one for all."""
    if any(stage.start != "base" for stage in stages):
        return "sequential"
    return "joint" if len(stages) == 1 and len(stages[0].tasks) > 1 else "single"


def seen(stages: Sequence[Teaches], position: int, columns: Container[str]) -> list[str]:
    """The columns that OP after a stage is over; none in the setting `single`, which has no OP."""
    if setting_of(stages) == "single":
        return []
    return [task for task in learned(stages, position) if task in columns]
