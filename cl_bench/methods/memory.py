"""Examples of earlier stages that a method looks back on, and products of gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cl_bench.methods.stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.data.examples import Example


def memories(stage: Stage, method: str, size: int) -> list[list[Example]]:
    """For every earlier stage, oldest first, `size` of its examples (or all), in their order.

    A stage's sample is fixed by (seed, method, task): the same in all later stages, as a memory
    that was filled once. A smaller one is part of a larger one.
    """
    return [sample_of(stage, method, task, some, size) for task, some in stage.earlier if size]


def sample_of(
    stage: Stage, method: str, task: str, examples: Sequence[Example], size: int
) -> list[Example]:
    """`size` examples of a task (or all), in their order; a stage's own as later ones choose."""
    import torch

    from cl_bench.seeds import derive_seed

    generator = torch.Generator().manual_seed(derive_seed(stage.seed, method, task))
    chosen = torch.randperm(len(examples), generator=generator)[:size]
    return [examples[i] for i in sorted(chosen.tolist())]


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The inner product of two gradients over all parameters, summed in float64."""
    import torch

    if not a:
        return 0.0
    parts = [(a[name].flatten() @ b[name].flatten()).double() for name in a]
    return float(torch.stack(parts).sum())
