"""Loads the generated tasks, also in a process that knows nothing else."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

from lm_eval.tasks import TaskManager

from cl_bench.resources import resource


def load() -> dict[str, Any]:
    """All tasks of `tasks/mini` by name, loaded anew."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=str(resource("tasks") / "mini"), include_defaults=False)
    tasks: dict[str, Any] = manager.load(sorted(manager.all_tasks))["tasks"]
    return tasks


def splits(task: Any) -> dict[str, list[dict[str, str]]]:
    return {name: [dict(row) for row in rows] for name, rows in task.dataset.items()}


def checksum(task: Any) -> str:
    text = json.dumps(splits(task), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
