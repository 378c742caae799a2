"""An experiment with everything resolved: what a config's methods and stages come to.

`experiment/resolve.py` makes it, once a command; everything else reads it. What a stage trains on,
from what it starts and what is scored after it are in its `StageSpec`: nobody looks up the stages
of the config again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from cl_bench.config.labels import one_name
from cl_bench.config.schema import ExperimentConfig, InContext, TrainConfig
from cl_bench.costs.added import Cost, Disk
from cl_bench.costs.shapes import Shapes
from cl_bench.costs.total import Total, total
from cl_bench.data.own_files.task import StageData
from cl_bench.methods.base import Method, Options, kept_by
from cl_bench.methods.compose import Composite
from cl_bench.scores.sequence import lineage, stage_folder

TrainingSet = tuple[str, int | None]
"""A task and how many of its training examples are seen, a seeded sample (None: all)."""


@dataclass(frozen=True)
class MethodPart:
    """A method class with its validated options."""

    method: type[Method]
    options: Options


@dataclass(frozen=True)
class Scored:
    """What is scored after a stage and inside it; columns in the order of the matrix."""

    columns: tuple[str, ...] = ()
    """The cells of its row."""
    seen: tuple[str, ...] = ()
    """What OP after it is over; empty where there is no OP."""
    general: bool = False
    inside: tuple[str, ...] = ()
    """Columns and benchmarks of the curve (`eval.within_stage`)."""


@dataclass(frozen=True)
class StageSpec:
    """One stage of one run, everything resolved. `start` is `previous` or `base`."""

    index: int
    tasks: tuple[str, ...]
    epochs: int
    limits: tuple[int | None, ...]
    """Training examples of each of `tasks`, a seeded sample; None: all."""
    train: TrainConfig
    origins: Mapping[str, str]
    parts: tuple[MethodPart, ...]
    start: str = "previous"
    scored: Scored = field(default_factory=Scored)
    """Filled in after `Method.schedule`: it depends on where the stage ends up."""

    @property
    def name(self) -> str:
        """Its task, or `joint` for several at once."""
        return self.tasks[0] if len(self.tasks) == 1 else "joint"

    @property
    def folder(self) -> str:
        """Its folder in that of the run."""
        return stage_folder(self.index, self.tasks)

    @property
    def sets(self) -> tuple[TrainingSet, ...]:
        """What it trains on."""
        return tuple(zip(self.tasks, self.limits, strict=True))

    @property
    def adapters(self) -> bool:
        """Whether a method of this stage trains adapters."""
        return any(part.method.adapters for part in self.parts)

    @property
    def scores_another(self) -> bool:
        """Whether a method of this stage has another model scored than training goes on from."""
        return bool(self.scoring)

    @property
    def scoring(self) -> list[str]:
        """The methods that have another model scored."""
        built = [part.method(part.options) for part in self.parts]
        return [method.name for method in built if method.scores_another]

    def cost(self, shapes: Shapes, earlier: int = 0) -> Total:
        """What its methods cost; with the weights of a model that is saved to be scored alone.

        `earlier`: how many stages were trained before it.
        """
        apart = Cost(disk=Disk(models=1)) if self.scores_another else Cost()
        here = replace(shapes, earlier=earlier)
        return total(self.build_method(), here, self.train.batch_size, earlier) + apart

    def build_method(self) -> Method:
        """A fresh method object for this stage."""
        built = [part.method(part.options) for part in self.parts]
        return built[0] if len(built) == 1 else Composite(built)


@dataclass(frozen=True)
class RunSpec:
    """One method (or one sequence of methods) with one seed."""

    label: str
    slug: str
    seed: int
    stages: tuple[StageSpec, ...]
    order: int = 0
    """Position of its method in `methods:`; reports list runs by it."""
    of: str = ""
    """The label of the entry whose lists it is one of."""

    @property
    def named(self) -> tuple[str, ...]:
        """What `--method` takes as well as its label: the name of its method, where it is one
        alone, and the label of an entry with lists."""
        own = one_name([[part.method.name for part in stage.parts] for stage in self.stages])
        return (*own, self.of) if self.of and self.of not in own else own

    @property
    def keeps(self) -> list[str]:
        """What its methods keep of earlier tasks, for tables; empty for nothing."""
        return list(kept_by([part.method for stage in self.stages for part in stage.parts]))

    def earlier(self, position: int) -> list[TrainingSet]:
        """What the model that a stage starts with was trained on, oldest first.

        Every task is there once, with all examples that any of its stages saw (samples of a task
        are nested: the largest holds the others); the stage's own tasks are not.
        """
        stage, before = self.stages[position], lineage(self.stages, position)[:-1]
        found: dict[str, list[int | None]] = {}
        for i in before:
            for task, limit in self.stages[i].sets:
                found.setdefault(task, []).append(limit)
        return [(task, widest(own)) for task, own in found.items() if task not in stage.tasks]


@dataclass(frozen=True)
class InContextSpec:
    """The base model with worked examples in its prompts, drawn with one seed: a row, not a run."""

    label: str
    slug: str
    seed: int
    options: InContext
    order: int = 0
    """Position in `methods:`."""

    @property
    def folder(self) -> str:
        """Where it is kept below the experiment's folder."""
        return f"{self.slug}/seed-{self.seed}"


@dataclass(frozen=True)
class TaskSpec:
    """A stage task, whichever stages train on it."""

    name: str
    given: str
    """As the config spells it."""
    scored: bool
    """Whether it is a column of the matrix."""
    test_limit: int | None
    limits: tuple[int | None, ...]
    """Training examples in each of the config's stages that have it."""
    allow_unreachable: bool = False
    data: StageData | None = None
    """Rows of the user's own that it is made of; None: a task that a YAML defines."""


@dataclass(frozen=True)
class Experiment:
    """A config, resolved."""

    config: ExperimentConfig
    tasks: tuple[TaskSpec, ...]
    """Every stage task once, in the order in which they first come."""
    sequence: tuple[str, ...]
    """The task of every stage of the config; one that comes again is there again."""
    runs: tuple[RunSpec, ...] = ()
    chosen: tuple[RunSpec, ...] = ()
    """Of `runs` those that `--method` leaves."""
    in_context: tuple[InContextSpec, ...] = ()
    """All rows of the base model with examples."""
    chosen_in_context: tuple[InContextSpec, ...] = ()
    """Of these those that `--method` leaves."""
    until: int | None = None
    """The stage after which this start ends (`--until`); the runs are what they are."""

    def now(self, run: RunSpec) -> tuple[StageSpec, ...]:
        """The stages of a run that this start trains, or finds done."""
        return tuple(s for s in run.stages if self.until is None or s.index <= self.until)

    @property
    def columns(self) -> list[str]:
        """The stage tasks that are scored: the columns of the matrix."""
        return [task.name for task in self.tasks if task.scored]

    @property
    def own(self) -> dict[str, StageData]:
        """The stage tasks that are made of the user's own rows."""
        return {task.name: task.data for task in self.tasks if task.data is not None}

    @property
    def base_columns(self) -> list[str]:
        """Those that the base model has a score in."""
        return [] if self.config.eval.trace.after == "never" else self.columns

    def limit_of(self, task: str) -> int | None:
        """The largest sample of a task's training examples that a stage of the config sees."""
        return widest(next(each.limits for each in self.tasks if each.name == task))

    @property
    def sets(self) -> list[TrainingSet]:
        """Everything that some stage trains on, and all that is seen of each task."""
        found = {(task.name, limit) for task in self.tasks for limit in task.limits}
        found |= {each for run in self.chosen for stage in run.stages for each in stage.sets}
        found |= {
            each
            for run in self.chosen
            for position in range(len(run.stages))
            for each in run.earlier(position)
        }
        order = {task.name: position for position, task in enumerate(self.tasks)}
        return sorted(found, key=lambda each: (order[each[0]], each[1] is None, each[1] or 0))


def widest(limits: Iterable[int | None]) -> int | None:
    """The largest of several samples of one task, which holds the others; None: all of it."""
    known = list(limits)
    return None if None in known else max(limit for limit in known if limit is not None)


class Checked(Protocol):
    """What checks of methods read of a preflight (`checks/preflight.py`)."""

    @property
    def config(self) -> ExperimentConfig:
        """As it was read."""

    @property
    def runs(self) -> Sequence[RunSpec]:
        """Those that are to be trained."""

    @property
    def model_path(self) -> str | Path:
        """A local folder, or a hub id with its revision."""

    @property
    def skeleton(self) -> Any:
        """The model on the meta device."""

    @property
    def device(self) -> str | None:
        """The kind of device that the run computes on; None where nothing is run."""

    def note(self, line: str) -> None:
        """Say a warning, now and in the report."""
