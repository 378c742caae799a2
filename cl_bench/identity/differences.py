"""What differs between two records of settings or of contents, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cl_bench.models.contents import changed_files, names, same_model

SPLITS = {"test": "test documents", "shots": "documents that shots are drawn from"}
NULLABLE = ("probes", "within_stage")
"""Keys that are not recorded when they are switched off: missing is null, not the default."""


def setting_differences(
    before: Any, now: Any, defaults: Any = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(key, value before, value now) for each that differs.

    A key that only `now` has counts as its default before: an older version did not know it.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            default = defaults.get(key) if isinstance(defaults, Mapping) else None
            old = before.get(key, None if key in NULLABLE else default)
            yield from setting_differences(old, now.get(key), default, (*path, str(key)))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        known = defaults if isinstance(defaults, list) and len(defaults) == len(now) else None
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            default = known[index] if known else None
            yield from setting_differences(old, new, default, (*path, str(index)))
    elif before != now:
        yield path, before, now


def in_words(path: Sequence[str], before: Any, now: Any) -> str:
    """`train.lr: was 1e-05, is 2e-05`; of a method its place in the list is left out."""
    parts = list(path)
    if parts[0] == "method" and len(parts) > 2:
        parts = parts[2:]
    return f"{'.'.join(parts)}: was {_short(before)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def stage_differences(before: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> list[str]:
    """What to say when the stages, each a list of tasks, are others than those of before.

    Stages that are appended at the end are no difference.
    """
    if list(now[: len(before)]) == list(before):
        return []
    ours, theirs = ([task for tasks in stages for task in tasks] for stages in (before, now))
    if any(len(tasks) > 1 for tasks in before) and theirs[: len(ours)] == ours:
        return [
            f"stages: {', '.join(theirs[len(ours) :])} added at the end: a stage that trains all "
            "tasks at once would be another one"
        ]
    return [f"stages: were {', '.join(ours)}; are {', '.join(theirs)}"]


def content_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Weights, tokenizer, task definitions and rows, as far as both records have them."""
    found = []
    ours, theirs = before.get("model", {}), now.get("model", {})
    if same_model(ours, theirs) is False:
        found.append(f"model.path: not the same weights: {names(changed_files(ours, theirs))}")
    ours, theirs = before.get("tokenizer", {}), now.get("tokenizer", {})
    if ours and theirs and ours != theirs:
        differing = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
        found.append(f"model.path: not the same tokenizer: {names(differing)}")
    return found + definition_differences(before, now) + data_differences(before, now)


def definition_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Tasks whose YAML, or the code it names, says something else."""
    found = []
    ours, theirs = before.get("tasks", {}), now.get("tasks", {})
    for task in sorted(ours.keys() & theirs.keys()):
        keys = ours[task] | theirs[task]
        differing = [key for key in sorted(keys) if ours[task].get(key) != theirs[task].get(key)]
        if differing:
            found.append(f"task {task}: its definition differs in {names(differing)}")
    return found


def data_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Tasks whose rows are others."""
    found: dict[str, list[str]] = {}
    ours, theirs = before.get("data", {}), now.get("data", {})
    for task in sorted(ours.keys() & theirs.keys()):
        for split in sorted(ours[task].keys() & theirs[task].keys()):
            if ours[task][split] != theirs[task][split]:
                what = SPLITS.get(split, f"{split.replace('train', 'training rows', 1)}")
                found.setdefault(what, []).append(task)
    return [f"data: other {what} of {names(tasks)}" for what, tasks in found.items()]
