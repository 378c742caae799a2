"""A run with everything resolved: what a config's method and stages come to.

`experiment/resolve.py` makes them, once; everything else reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cl_bench.config.labels import one_name
from cl_bench.config.schema import TrainConfig
from cl_bench.methods.base import Method, Options, kept_by, overrides
from cl_bench.methods.compose import Composite

if TYPE_CHECKING:
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.training import Cost


@dataclass(frozen=True)
class MethodPart:
    """A method class with its validated options."""

    method: type[Method]
    options: Options


@dataclass(frozen=True)
class StageSpec:
    """One stage of one run, everything resolved. `start` is `previous` or `base`."""

    index: int
    tasks: tuple[str, ...]
    epochs: int
    limit: int | None
    train: TrainConfig
    origins: Mapping[str, str]
    parts: tuple[MethodPart, ...]
    start: str = "previous"

    @property
    def folder(self) -> str:
        """`stage-1-trace_cstance`, or `stage-1-joint` for several tasks at once."""
        return f"stage-{self.index}-{self.tasks[0] if len(self.tasks) == 1 else 'joint'}"

    @property
    def adapters(self) -> bool:
        """Whether a method of this stage trains adapters."""
        return any(part.method.adapters for part in self.parts)

    @property
    def scores_another(self) -> bool:
        """Whether a method of this stage has another model scored than training goes on from."""
        return any(overrides(part.method, "scored") for part in self.parts)

    def cost(self, shapes: Shapes) -> Cost:
        """What its methods cost; with the weights of a model that is saved to be scored alone."""
        cost = self.build_method().cost(shapes)
        apart = shapes.numel * shapes.dtype_bytes if self.scores_another else 0
        return replace(cost, checkpoint=cost.checkpoint + apart)

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

    @property
    def named(self) -> tuple[str, ...]:
        """The name of its method, where it is one alone; `--method` takes it as well as labels."""
        return one_name([[part.method.name for part in stage.parts] for stage in self.stages])

    @property
    def keeps(self) -> list[str]:
        """What its methods keep of earlier tasks, for tables; empty for nothing."""
        return list(kept_by([part.method for stage in self.stages for part in stage.parts]))


class Checked(Protocol):
    """What checks of methods read of a preflight (`checks/preflight.py`)."""

    @property
    def runs(self) -> Sequence[RunSpec]:
        """Those that are to be trained."""

    @property
    def model_path(self) -> str | Path:
        """A local folder, or a hub id with its revision."""

    @property
    def skeleton(self) -> Any:
        """The model on the meta device."""

    def note(self, line: str) -> None:
        """Say a warning, now and in the report."""
