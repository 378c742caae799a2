"""How many tokens a task lets a model write: one number under the four names that lm-eval reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""In lm-eval's order: the first that is given counts."""


def own_limit(kwargs: Mapping[str, Any] | None, default: int) -> int:
    """What `generation_kwargs` of a YAML say, whatever name they give it; else `default`."""
    given = [kwargs[name] for name in NAMES if kwargs and kwargs.get(name) is not None]
    return int(given[0]) if given else default


def limited(kwargs: Mapping[str, Any] | None, most: int) -> dict[str, Any]:
    """The same options under a limit of `most` new tokens, which stands under one name."""
    rest = {name: value for name, value in (kwargs or {}).items() if name not in NAMES}
    return rest | {"max_gen_toks": min(own_limit(kwargs, most), most)}


def limit_faults(tasks: Mapping[str, Any]) -> Iterator[str]:
    """Limits of generated answers that no one can follow, by task."""
    for name, task in tasks.items():
        kwargs = getattr(task.config, "generation_kwargs", None)
        if task.OUTPUT_TYPE == "generate_until" and isinstance(kwargs, Mapping):
            yield from (f"{name}: generation_kwargs.{fault}" for fault in _faults(kwargs))


def _faults(kwargs: Mapping[str, Any]) -> Iterable[str]:
    given = {name: kwargs[name] for name in NAMES if kwargs.get(name) is not None}
    for name, value in given.items():
        if isinstance(value, bool) or not _whole(value):
            yield f"{name}: {value!r} is no number of tokens: a whole one, 1 or more"
    if len(set(map(str, given.values()))) > 1:
        yield f"{' and '.join(given)}: two limits that differ: keep max_gen_toks alone"
    if kwargs.get("max_length") is not None:
        yield "max_length: it would count the prompt too: limit the answer with max_gen_toks"


def _whole(value: Any) -> bool:
    try:
        return int(value) == float(value) and int(value) >= 1
    except (TypeError, ValueError):
        return False
