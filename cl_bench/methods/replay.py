"""Experience replay: a share of every earlier task is mixed into the new one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cl_bench.methods.base import Method, Options, Stage

if TYPE_CHECKING:
    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.data.examples import Example


class ReplayOptions(Options):
    """Options of replay."""

    ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="share of each earlier task's examples that is seen again in every epoch"
    )


class Replay(Method[ReplayOptions]):
    """Mixed replay: `ceil(ratio * n)` seeded examples of every earlier task join each epoch.

    The sample of a task is the same in all later stages (a buffer filled once), until the task is
    trained again on more examples; while it is, it is not replayed. TRACE instead
    trains one separate epoch after each task, on the first rows in file order and on LIMA.
    """

    name = "replay"
    family = "replay"
    source = "SEEKR 2024, PIECE 2025"
    keeps = "examples"

    def adds(self, shapes: Shapes) -> Cost:
        """`ratio` of every earlier stage's examples, in each epoch."""
        from cl_bench.costs.added import Cost, Work

        return Cost(work=Work(earlier=self.options.ratio))

    def examples(self, stage: Stage, examples: Sequence[Example]) -> Sequence[Example]:
        """The stage's examples, then the buffer of every earlier task, oldest first."""
        import math

        import torch

        from cl_bench.seeds import derive_seed

        mixed = list(examples)
        for task, earlier in stage.earlier:
            keep = math.ceil(self.options.ratio * len(earlier))
            generator = torch.Generator().manual_seed(derive_seed(stage.seed, "replay", task))
            chosen = torch.randperm(len(earlier), generator=generator)[:keep]
            mixed += [earlier[i] for i in sorted(chosen.tolist())]
        stage.notes["replayed_examples"] = len(mixed) - len(examples)
        return mixed
