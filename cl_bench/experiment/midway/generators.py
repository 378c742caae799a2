"""The states of the global random generators, which dropout and libraries draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

Drawn = tuple[dict[str, Any], dict[str, Tensor]]
"""JSON values and tensors."""


def generators(device: torch.device) -> Drawn:
    """Those of Python, NumPy, torch on the CPU and on the device."""
    version, state, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    values = {
        "python": [version, list(state), gauss],
        "numpy": [kind, int(position), int(has_gauss), float(cached)],
    }
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.array(keys))}
    if device.type != "cpu":
        tensors["device"] = _of_device(device).get_rng_state(*_place(device)).cpu()
    return values, tensors


def set_generators(
    values: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device
) -> None:
    """Put back what `generators` gave."""
    version, state, gauss = values["python"]
    random.setstate((version, tuple(state), gauss))
    kind, position, has_gauss, cached = values["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy(), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    if device.type != "cpu":
        _of_device(device).set_rng_state(tensors["device"], *_place(device))


@contextmanager
def undrawn(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the generators are afterwards as they were."""
    before = generators(device)
    try:
        yield
    finally:
        set_generators(*before, device)


def _of_device(device: torch.device) -> Any:
    """`torch.cuda`, `torch.mps`, ..."""
    return getattr(torch, device.type)


def _place(device: torch.device) -> tuple[torch.device, ...]:
    """MPS has one device and takes no place."""
    return () if device.type == "mps" else (device,)
