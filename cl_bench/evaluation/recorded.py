"""How a benchmark's score was measured, for `scores.json`: what must be equal to compare two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from cl_bench.evaluation.harness import TaskResult


def how_measured(tasks: Mapping[str, Any], results: Mapping[str, TaskResult]) -> dict[str, Any]:
    """Protocol, harness, task and version, split, shots, and the metric that is the score.

    `task` is the leaf task, or what the names of a group's members begin with and `*`. What members
    do not have in common is listed, parted by `/`.
    """
    leaves = list(tasks.values())
    metadata = [leaf.config.metadata or {} for leaf in leaves]
    shots = [
        extra.get("shots", leaf.config.num_fewshot or 0)
        for leaf, extra in zip(leaves, metadata, strict=True)
    ]
    splits = [
        extra.get("split", leaf.config.test_split or leaf.config.validation_split)
        for leaf, extra in zip(leaves, metadata, strict=True)
    ]
    return {
        "protocol": _common(extra.get("protocol", "lm-eval") for extra in metadata),
        "harness": "lm-evaluation-harness",
        "harness_version": version("lm-eval"),
        "task": next(iter(tasks)) if len(tasks) == 1 else f"{_beginning(list(tasks))}*",
        "task_version": _common(leaf.VERSION for leaf in leaves),
        "split": _common(splits),
        "shots": _common(shots),
        "metric": _common(result.headline for result in results.values()),
    }


def _beginning(names: Sequence[str]) -> str:
    """What all names begin with."""
    first, last = min(names), max(names)
    same = [a == b for a, b in zip(first, last, strict=False)]
    return first[: [*same, False].index(False)]


def _common(values: Iterable[Any]) -> str:
    return "/".join(dict.fromkeys(str(value) for value in values))
