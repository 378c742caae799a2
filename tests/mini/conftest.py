"""The generated tasks, as lm-evaluation-harness loads them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from cl_bench.resources import resource


def load() -> dict[str, Any]:
    """All tasks of `tasks/mini` by name, loaded anew."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=str(resource("tasks") / "mini"), include_defaults=False)
    tasks: dict[str, Any] = manager.load(sorted(manager.all_tasks))["tasks"]
    return tasks


@pytest.fixture(scope="session")
def tasks() -> dict[str, Any]:
    return load()
