"""Merging config files, and `-o key=value` on top of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cl_bench.config.yaml_text import parse
from cl_bench.errors import UserError

WHOLE_METHOD = {"name", "compose", "file"}
"""Keys that say which method an entry is: with one of them it replaces a name."""


class _WrongPlaceError(Exception):
    """A key that leads nowhere in the file; the message says what is there."""


def merge(base: Any, over: Any, key: str = "") -> Any:
    """Mappings merge key by key; everything else is replaced.

    A mapping of positions changes single items of a list (`stages: {0: {epochs: 1}}`), and keys
    given for something in short form (`sft`, `within_stage: 50`) add to what it stands for. Raises
    UserError for a position that the list does not have.
    """
    try:
        return _merge(base, over, key)
    except _WrongPlaceError as error:
        raise UserError(str(error)) from None


def _merge(base: Any, over: Any, key: str) -> Any:
    if isinstance(over, dict):
        base = _in_full(base, over, key)
    if isinstance(base, dict) and isinstance(over, dict):
        merged = dict(base)
        for name, value in over.items():
            inner = f"{key}.{name}".lstrip(".")
            merged[name] = _merge(base[name], value, inner) if name in base else value
        return merged
    if isinstance(base, list) and isinstance(over, dict) and over:
        return _merge_items(base, over, key)
    return over


def _merge_items(base: list[Any], over: dict[Any, Any], key: str) -> list[Any]:
    positions = {str(position): value for position, value in over.items()}
    known = {str(i) for i in range(len(base))}
    for position in positions.keys() - known:
        name = key.rpartition(".")[2]
        counted = f", counted from 0 to {len(base) - 1}" if len(base) > 1 else ""
        there = f"is only {key}.0" if len(base) == 1 else f"are {len(base)} {name}{counted}"
        raise _WrongPlaceError(f"{key}.{position}: there {there}")
    return [
        _merge(item, positions[str(i)], f"{key}.{i}") if str(i) in positions else item
        for i, item in enumerate(base)
    ]


def _in_full(base: Any, over: dict[Any, Any], key: str) -> Any:
    """What a short form stands for, where keys are to be added to it."""
    if isinstance(base, str) and _is_method(key) and not WHOLE_METHOD & over.keys():
        return {"name": base}
    switched = key == "eval.within_stage" and not isinstance(base, bool)
    return {"every": base} if switched and isinstance(base, str | int) else base


def _is_method(key: str) -> bool:
    """Whether a place holds a method: `methods.2`, `methods.2.compose.0`, `stages.0.method`."""
    parts = key.split(".")
    return parts[-1] == "method" or (len(parts) > 1 and parts[-2] in ("methods", "compose"))


def apply_overrides(
    data: dict[str, Any],
    overrides: Iterable[str],
    absolute: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """The data with every `dotted.key=value`, values read as YAML, in their order.

    `absolute` completes the paths of what one of them gives. Raises UserError with all faults.
    """
    faults: list[str] = []
    for text in overrides:
        try:
            data = _apply(data, text, absolute)
        except UserError as error:
            faults += error.faults
        except _WrongPlaceError as error:
            faults.append(f"-o {text}: {error}")
    if faults:
        raise UserError(faults)
    return data


def _apply(
    data: dict[str, Any], text: str, absolute: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UserError(f"-o {text}: expected key=value, for example -o train.lr=1e-6")
    nested: Any = parse(value, f"-o {text}")
    for part in reversed(parts):
        nested = {part: nested}
    _reachable(data, parts)
    merged: dict[str, Any] = _merge(data, absolute(nested), "")
    return merged


def _reachable(data: Any, parts: Sequence[str]) -> None:
    """Refuse a key below a plain value: it would take the place of that value unseen."""
    for depth, part in enumerate(parts):
        key = ".".join(parts[:depth])
        if isinstance(data, str) and _is_method(key):
            return
        data = _in_full(data, {part: None}, key)
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list):
            data = data[int(part)] if part.isdecimal() and int(part) < len(data) else None
        elif data is not None:
            raise _WrongPlaceError(f"{key} is {data!r:.60}, which has no keys")
        if data is None:
            return
