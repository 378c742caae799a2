"""Branch and merge (Alexandrov et al. 2024): train slices of the data apart, merge, go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from cl_bench.methods.base import Method, Options, Phase, Stage
from cl_bench.methods.merging import adapters_refused, lerp, merged, slerp

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.methods.spec import StageSpec


class BranchMergeOptions(Options):
    """Options of branch and merge; the paper trains two branches at a time."""

    branches: Annotated[int, Field(ge=1)] = Field(
        2, description="models that are trained apart, each on its slice, and then merged"
    )
    rounds: Annotated[int, Field(ge=1)] = Field(
        1, description="how often; the examples are cut into branches * rounds slices"
    )
    merge: Literal["linear", "slerp"] = Field(
        "linear", description="the mean of the branches, or the middle of the arc between two"
    )

    @model_validator(mode="after")
    def _two_ends(self) -> BranchMergeOptions:
        if self.merge == "slerp" and self.branches > 2:
            raise ValueError("merge: slerp is between two models: branches: 2")
        return self


class BranchMerge(Method[BranchMergeOptions]):
    """In each round every branch starts from the same weights; the next one starts from their mean.

    Slice i has the examples i, i + n, i + 2n, ... of the stage, n = branches * rounds, and is
    trained for the stage's epochs, with an optimiser and a learning rate schedule of its own: as
    many passes over every example as in plain training, in n times as short schedules. The paper
    slices a shuffled text corpus; which schedule each of its branches has is not said.
    """

    name = "branch_merge"
    family = "merges"
    source = "Alexandrov 2024, arXiv 2407.08699"

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """Adapters."""
        return adapters_refused(stage)

    @property
    def least_examples(self) -> int:
        """One for each slice."""
        return self.options.branches * self.options.rounds

    def phases(self, stage: Stage) -> Iterator[Phase]:
        """One for each branch; what is kept beside the model is the start and the mean so far."""
        options, count = self.options, self.least_examples
        for first in range(0, count, options.branches):
            start = stage.snapshot() if options.branches > 1 else None
            mean: dict[str, Tensor] = {}
            for branch in range(options.branches):
                slice_ = stage.mixture[first + branch :: count]
                yield Phase(slice_, stage.epochs, start=start if branch else None)
                mean = self._with(stage, mean, branch)
            if options.branches > 1:
                stage.load(mean)

    def _with(self, stage: Stage, mean: dict[str, Tensor], branch: int) -> dict[str, Tensor]:
        """The mean of the branches so far, on the CPU in the precision of the arithmetic."""
        if self.options.branches == 1:
            return {}
        blend = slerp if self.options.merge == "slerp" else lerp

        def rule(name: str, own: Tensor) -> Tensor:
            return blend(mean.get(name, own), own, 1 / (branch + 1)).cpu()

        return dict(merged(stage, rule))
