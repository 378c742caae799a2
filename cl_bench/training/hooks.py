"""Forward hooks that are for training alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Hook = TypeVar("Hook", bound=Callable[..., Any])
MARK = "only_in_training"


def only_in_training(hook: Hook) -> Hook:
    """Say of a forward hook that it does nothing in evaluation.

    Scoring on a CPU may then run two passes at a time, which it does not where an unknown hook
    might mix them up (`cl_bench/evaluation/shared_prefix/cpu_twins.py`).
    """
    setattr(hook, MARK, True)
    return hook


def is_only_in_training(hook: Callable[..., Any]) -> bool:
    """Whether that was said."""
    return bool(getattr(hook, MARK, False))
