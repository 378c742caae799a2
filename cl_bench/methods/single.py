"""A model for every task: each stage starts from the base model. The bound without forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cl_bench.methods.base import Method

if TYPE_CHECKING:
    from cl_bench.methods.spec import StageSpec


class Single(Method):
    """Plain fine-tuning of the base model on every task by itself (TRACE's PerTask, SingleFT).

    Nothing is learned one after the other, so there is no OP, BWT or forgetting: its number is the
    mean of the diagonal. Composed with another method, that one trains every stage.
    """

    name = "single"
    family = "bounds"
    source = "TRACE's PerTask, arXiv 2310.06762"

    def schedule(self, stages: Sequence[StageSpec]) -> list[StageSpec]:
        """The same stages, none of which goes on from another."""
        return [replace(stage, start="base") for stage in stages]
