"""Fixtures shared by all tests: the golden vectors, and how tests run."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared-machine", deadline=None)  # CI machines stall for seconds
settings.load_profile("shared-machine")
os.fsync = lambda file: None  # milliseconds a file; only a power cut could tell the difference
# A shell's `&` and `nohup` start what ignores these, and tests send them.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_finish() -> None:
    """What the imports have made stays: no collection of garbage need look through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Golden vectors and real data, kept beside the repository (licences forbid copying them)."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not folder.is_dir():
        message = f"{folder} is missing: golden vectors and real data are kept beside the checkout"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: sums have one order, and nobody else's thread is waited for."""
    yield from _threads(1)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch on two threads, which two passes at a time share."""
    yield from _threads(2)


def _threads(number: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)
