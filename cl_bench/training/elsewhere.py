"""Gradients that are kept on another device than the one that computes them (`train.offload`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SENT = 2**24
"""Entries that are moved to the device at a time, to be summed over processes."""


def reduce_on(device: torch.device, gradients: Tensor, reduce: Callable[[Tensor], None]) -> None:
    """`reduce`, an in-place sum over processes, of a vector; processes are connected on `device`.

    NCCL knows the memory of cards alone.
    """
    if gradients.device == device:
        reduce(gradients)
        return
    for part in torch.split(gradients, SENT):
        sent = part.to(device)
        reduce(sent)
        part.copy_(sent)
