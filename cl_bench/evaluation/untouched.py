"""Evaluation must leave training exactly as it found it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Restore random states (Python, NumPy, torch, devices) and every module's training mode.

    lm-evaluation-harness re-seeds all of them and leaves the model in eval mode.
    """
    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    modes = [(module, module.training) for module in model.modules()]
    use_cache = getattr(model.config, "use_cache", None)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)
            torch.cuda.empty_cache()
        for module, training in modes:
            module.training = training
        if use_cache is not None:
            model.config.use_cache = use_cache
