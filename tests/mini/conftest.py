"""The generated tasks, as lm-evaluation-harness loads them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.documents import load


@pytest.fixture(scope="session")
def tasks() -> dict[str, Any]:
    return load()
