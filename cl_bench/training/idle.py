"""Batches that count nothing, where all processes must go through as many passes as one.

A process that has fewer micro-batches than another repeats one of the update's, in eval mode, so
that dropout draws nothing and methods that watch a model in training see nothing of it; its loss is
multiplied by 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

IDLE = "idle"
"""Key of such a batch."""


class Idle(list[int]):
    """A micro-batch, by the indices of its examples, that counts nothing."""


def weight_of(batch: Mapping[str, Tensor]) -> float:
    """By what the loss of a batch is multiplied."""
    return 0.0 if IDLE in batch else 1.0


@contextmanager
def unseen(model: nn.Module, batch: Mapping[str, Tensor]) -> Iterator[None]:
    """While open, a model that sees an idle batch is in eval mode."""
    if IDLE not in batch:
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
