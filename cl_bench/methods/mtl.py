"""Multi-task learning: all tasks in one stage. The bound of seeing everything at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Options

if TYPE_CHECKING:
    from cl_bench.methods.spec import StageSpec


class MTLOptions(Options):
    """Options of mtl."""

    epochs: Annotated[int, Field(gt=0)] | None = Field(
        None, description="passes over all tasks' examples; null: the stages', which must agree"
    )


class MTL(Method[MTLOptions]):
    """Plain fine-tuning on the examples of all tasks, shuffled together (TRACE's MTL).

    Every task brings as many examples as its stage's `limit` says; one that has several stages is
    in it once, with the largest. Its only row covers all columns. Composed with another method,
    that one trains the joint stage.
    """

    name = "mtl"
    family = "bounds"
    source = "TRACE's MTL, arXiv 2310.06762"

    def schedule(self, stages: Sequence[StageSpec]) -> list[StageSpec]:
        """One stage for all. Raises UserError where the stages ask for what one cannot do."""
        from cl_bench.methods.spec import widest

        limits: dict[str, list[int | None]] = {}
        for stage in stages:
            for task, limit in stage.sets:
                limits.setdefault(task, []).append(limit)
        faults = [*_differing(stages), *self._epochs_fault(stages)]
        if len(limits) == 1:
            faults.append(f"mtl trains all tasks at once, and {next(iter(limits))} is the only one")
        if faults:
            raise UserError(faults)
        return [
            replace(
                stages[0],
                tasks=tuple(limits),
                limits=tuple(widest(own) for own in limits.values()),
                epochs=self.options.epochs or stages[0].epochs,
                start="base",
            )
        ]

    def _epochs_fault(self, stages: Sequence[StageSpec]) -> Iterator[str]:
        epochs = [stage.epochs for stage in stages]
        if self.options.epochs is None and len(set(epochs)) > 1:
            yield (
                f"mtl trains all stages as one, and they have {', '.join(map(str, epochs))} "
                "epochs: give epochs: in its entry"
            )


def _differing(stages: Sequence[StageSpec]) -> Iterator[str]:
    """Values that a stage has for itself alone."""
    first = stages[0]
    for stage in stages[1:]:
        ours, theirs = (_values(each) for each in (first, stage))
        if keys := [key for key in ours if ours[key] != theirs[key]]:
            yield (
                f"mtl trains all stages as one, and stage {stage.index} has another "
                f"{', '.join(keys)} than stage {first.index}: give it in the method's entry"
            )


def _values(stage: StageSpec) -> dict[str, object]:
    """Everything that a stage can say for itself but its task, limit and epochs."""
    options = [part.options.model_dump() for part in stage.parts]
    return {**stage.train.model_dump(), **{k: v for each in options for k, v in each.items()}}
