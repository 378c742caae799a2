"""Of what kinds the values of records are, whatever version wrote them.

A checksum tells that a file was changed, not that a record which has its checksum can be read.
Whoever reads a single key needs no others: the shapes whose name begins with `Whole` are for those
who read all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cl_bench.errors import RunError
from cl_bench.store.links import leading_out


class Shape(BaseModel):
    """Keys that are not named are left alone."""

    model_config = ConfigDict(extra="allow", strict=True)


class FileShape(Shape):
    """The record of a file (`store/seals.py`)."""

    bytes: int
    sha256: str


class EntryShape(Shape):
    """A task's entry of `scores.json`."""

    score: float | None = None
    n: int | None = None
    stderr: float | None = None
    members: dict[str, Any] = {}
    measured: dict[str, Any] = {}


class ScoresShape(Shape):
    """`scores.json`."""

    trace: dict[str, EntryShape]
    general: dict[str, EntryShape | float | None]
    files: dict[str, FileShape] = {}


class TrainedShape(Shape):
    """`trained.json`."""

    checkpoint: str
    files: dict[str, FileShape]


class TensorShape(Shape):
    """How a tensor is made from another one (`models/differences.py`)."""

    form: str
    count: int
    sha256: str


class StoredShape(Shape):
    """What is stored in place of a file of weights."""

    stored: FileShape
    tensors: dict[str, TensorShape]


class DeltaShape(Shape):
    """`delta.json`."""

    base: str
    of: dict[str, Any]
    weights: dict[str, StoredShape]


class StageShape(Shape):
    """A stage of a `run.json`."""

    tasks: list[str] = []


class WholeStage(Shape):
    """The same for whoever reads the stages."""

    index: Annotated[int, Field(gt=0)]
    tasks: Annotated[list[str], Field(min_length=1)]
    start: str


class RunShape(Shape):
    """The `config` of a `run.json`."""

    stages: list[StageShape] = []


class WholeRun(Shape):
    """The same for whoever reads the stages."""

    stages: list[WholeStage]


class ModelShape(Shape):
    """The model of an `experiment.json`."""

    path: str


class GivenStageShape(Shape):
    """A stage of an `experiment.json`."""

    task: str


class ConfigShape(Shape):
    """The `config` of an `experiment.json`."""

    name: str = ""
    model: ModelShape | None = None
    stages: list[GivenStageShape] = []
    task_paths: list[str] = []


class WholeConfig(ConfigShape):
    """The same for whoever reads the experiment."""

    name: str
    model: ModelShape
    stages: Annotated[list[GivenStageShape], Field(min_length=1)]


class ExperimentShape(Shape):
    """`experiment.json`."""

    config: ConfigShape


class WholeExperiment(Shape):
    """The same for whoever reads all of it."""

    config: WholeConfig


def check_shape(path: Path, data: Mapping[str, Any], shape: type[Shape], remedy: str) -> None:
    """Raise RunError naming the file and the first key that is not as it is read."""
    try:
        shape.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RunError(f"{path}: {key}: {first['msg']}: not a record of ours; {remedy}") from error


def task_names(path: Path, names: list[str], remedy: str) -> None:
    """Raise RunError for a name that would lead to files elsewhere."""
    away = [name for name in names if "/" in name or leading_out([name])]
    if away:
        raise RunError(f"{path}: {away[0]!r} is no name of a task; {remedy}")
