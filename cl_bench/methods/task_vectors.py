"""What methods share that merge task vectors, the changes that stages made.

Names are mergekit's (`density`, `lambda`, `normalize`); its weight of single models is 1 for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import TypeVar

from cl_bench.methods.base import Stage
from cl_bench.methods.merging import (
    MergeOptions,
    Merging,
    Rule,
    begun_with,
    change,
    combined,
    working,
)

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.methods.spec import StageSpec

    Ends = tuple[int, Mapping[str, Tensor], Mapping[str, Tensor] | None]
    """A stage, the weights its vector starts at, and those it ends at (None: this stage's)."""


class TaskVectorOptions(MergeOptions):
    """Options of every merge of task vectors."""

    use: Literal["training", "scoring"] = Field(
        "scoring",
        alias="for",
        description="what the merged weights are for: they are only scored and training goes on "
        "from the unmerged ones, or the next stage goes on from them",
    )
    scale: Annotated[float, Field(ge=0, alias="lambda")] = Field(
        1.0, alias="lambda", description="factor for the merged vector"
    )
    since: Literal["start", "base"] = Field(
        "start",
        description="where the vector of a stage starts: at the weights that the stage began with, "
        "or at the base model",
    )
    normalize: bool = Field(False, description="the mean of the vectors instead of their sum")


V_co = TypeVar("V_co", bound=TaskVectorOptions, covariant=True, default=TaskVectorOptions)


class TaskVectors(Merging[V_co]):
    """theta = origin + lambda * combined(pruned vectors), over this stage and those before it.

    The origin is the base model. The vector of stage k is theta_k - theta_(k - 1), or with
    `since: base` theta_k - theta_0; after `single` the two are the same. With `for: training` and
    `since: start` the vectors of earlier stages are in the weights already, so the stage's own is
    alone and the origin is what the stage began with: every vector is pruned and scaled once. With
    `for: training` and `since: base` the theta_k of earlier stages are the merged ones, which is
    what their checkpoints hold.
    """

    def earlier_weights(self, stage: StageSpec) -> Iterable[int]:
        """Of all stages before, where their vectors are merged again."""
        own = self.options.use == "training" and self.options.since == "start"
        return () if own else range(1, stage.index)

    @property
    def consensus(self) -> bool:
        """Whether only entries that agree in sign are merged."""
        return False

    def pruned(self, stage: Stage, number: int, name: str, vector: Tensor) -> Tensor:
        """What is left of a vector of stage `number`, for one parameter; default: all of it."""
        return vector

    @property
    def prunes(self) -> bool:
        """Whether `pruned` takes anything away, with these options."""
        return False

    def rule(self, stage: Stage) -> Rule:
        """The vectors of one parameter are made one after the other, and added up."""
        origin, ends = self._ends(stage)
        scale, normalize = self.options.scale, self.options.normalize
        if self._changes_nothing(ends):
            return lambda name, own: own

        def merge(name: str, own: Tensor) -> Tensor:
            def vectors() -> Iterator[Tensor]:
                for number, start, end in ends:
                    last = own if end is None else end[name].to(own.device)
                    yield self.pruned(stage, number, name, change(start[name], last))

            mixed = combined(vectors, self.consensus, normalize)
            return working(origin[name], own) + scale * mixed

        return merge

    def _ends(self, stage: Stage) -> tuple[Mapping[str, Tensor], list[Ends]]:
        """The origin, and where the vectors start and end, oldest first."""
        if self.options.use == "training" and self.options.since == "start":
            begun = stage.weights(begun_with(stage))
            return begun, [(stage.index, begun, None)]
        models = [stage.weights(k) for k in range(stage.index)]
        apart = self.options.since == "base" or stage.start == "base"
        starts = [models[0]] * stage.index if apart else models
        ends = [*models[1:], None]
        return models[0], list(zip(range(1, stage.index + 1), starts, ends, strict=True))

    def _changes_nothing(self, ends: Sequence[Ends]) -> bool:
        """Whether the vectors lead from the origin to the weights as they are.

        Said without arithmetic, so that it is true to the last bit.
        """
        if self.options.scale != 1 or self.prunes:
            return False
        chained = all(one[2] is two[1] for one, two in pairwise(ends))
        return len(ends) == 1 or (chained and not self.consensus and not self.options.normalize)
