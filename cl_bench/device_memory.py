"""Memory that does not suffice: how to know it, and how to get back what nothing holds any more."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, as torch's do in many ways."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in text for word in _WORDS)
    )


def first_line(error: BaseException) -> str:
    """Of what it says; torch adds advice and a trace."""
    return (str(error) or type(error).__name__).splitlines()[0]


def free_memory(device: torch.device) -> None:
    """Give back what nothing holds any more."""
    import torch

    gc.collect()
    free = getattr(getattr(torch, device.type, None), "empty_cache", None)
    if free is not None and device.type != "cpu":
        free()
