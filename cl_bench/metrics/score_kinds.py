"""Whether a task's score of one document is right or wrong, or lies between: told by its metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cl_bench.metrics.trace_tasks import TASKS

RIGHT_OR_WRONG = frozenset(
    ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "accuracy", "exact_match", "em", "pass@1")
)
"""Metrics whose score of a document is 0 or 1, by lm-eval's names and ours."""
OF_PROGRAMS = "timeout"
"""What stands beside the `score` of tasks that run programs, which pass or fail."""


def lies_between(task: str, entry: Mapping[str, Any]) -> bool | None:
    """Whether scores of documents may lie between right and wrong; None where nothing says so.

    `entry` is the task's in `scores.json`. Any metric that is not known to be right or wrong counts
    as one that may, whatever values it happens to have; of a group one member is enough.
    """
    members = entry.get("members")
    if members:
        found = [lies_between(name, member or {}) for name, member in members.items()]
        return None if None in found else any(found)
    metric = entry.get("metric")
    if metric is None:
        return None
    if metric == "score":
        if ours := TASKS.get(task.replace("mini_", "trace_", 1)):
            metric = ours.headline
        elif any(name.split(",")[0] == OF_PROGRAMS for name in entry.get("metrics", {})):
            return False
    return metric not in RIGHT_OR_WRONG
