"""What the tests of costs share."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def memory() -> Iterator[Any]:
    """The benchmark script that measures."""
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("memory")
    sys.path.remove(folder)
    sys.modules.pop("memory")
    sys.modules.pop("side_by_side", None)
