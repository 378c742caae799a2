"""JSON of data files: a list of values or one a line, in UTF-8, and what keeps a text from that."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from cl_bench.errors import UserError

MAX_LINE = 4 * 2**20
"""Bytes in one line of JSON lines."""


class Numbered(NamedTuple):
    """A value of a file and where it stands: its row or line, from 1."""

    number: int
    value: Any


def parse_objects(data: bytes, where: str) -> tuple[str, list[Numbered], list[str]]:
    """What numbers count (`row` of a list, `line` of JSON lines), the values, lines that are none.

    Raises UserError when the whole is neither a JSON list nor JSON lines.
    """
    text = decode(data, where)
    start = text.lstrip()[:1]
    if not start:
        return "line", [], []
    if start not in ("{", "["):
        found = json_type(_loads(text, where))
        raise UserError(f"{where}: {found}, not a list of rows or one object a line")
    if start == "[" and not _is_lines(text):
        items = [Numbered(i, item) for i, item in enumerate(_loads(text, where), 1)]
        return "row", items, _twice(items, "row", where)
    if start == "{" and (keys := _one_object(text)):
        raise UserError(f"{where}: one object (with {', '.join(keys[:8])}), not a list of rows")
    return _lines(text, where)


def _is_lines(text: str) -> bool:
    """Whether what begins like a list is lines of lists: a fault to name line by line."""
    first, _, rest = text.strip().partition("\n")
    try:
        json.loads(first)
    except (RecursionError, ValueError):
        return False
    return bool(rest)


_WRAPPERS = ("data", "rows", "examples", "instances", "train", "test")
"""Keys under which other programs put the rows of a file."""


def _one_object(text: str) -> list[str]:
    """Keys of a file that is one object: over several lines, or with the rows under a key."""
    try:
        value = json.loads(text)
    except (RecursionError, ValueError):
        return []
    holds_rows = any(isinstance(value.get(name), list) for name in _WRAPPERS)
    return list(value) if holds_rows or "\n" in text.strip() else []


def _lines(text: str, where: str) -> tuple[str, list[Numbered], list[str]]:
    values: list[Numbered] = []
    faults: list[str] = []
    # Not splitlines: texts may hold other characters that it takes for the end of a line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(line) > MAX_LINE:
            faults.append(f"{where}: line {number}: {len(line):,} characters, limit {MAX_LINE:,}")
            continue
        try:
            values.append(Numbered(number, parse_json(line)))
        except json.JSONDecodeError as error:
            faults.append(f"{where}: line {number}: not JSON (column {error.colno}: {error.msg})")
        except (RecursionError, ValueError) as error:
            faults.append(f"{where}: line {number}: not JSON that can be read ({error})")
    return "line", values, [*faults, *_twice(values, "line", where)]


class Repeating(dict[str, Any]):
    """An object of which a key stands twice in the text: JSON's readers keep the last."""

    key: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    repeating = Repeating(found)
    repeating.key = next(name for name in names if names.count(name) > 1)
    return repeating


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if abs(number) == float("inf"):
        raise ValueError(f"a number of {len(text)} digits, beyond what 64 bits hold")
    return number


def parse_json(text: str) -> Any:
    """A value of JSON, as strict as JSON is. Raises ValueError: NaN, numbers beyond 64 bits too."""
    return json.loads(
        text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite
    )


def _twice(values: Iterable[Numbered], unit: str, where: str) -> list[str]:
    return [
        f"{where}: {unit} {number}: '{value.key}' stands twice in it"
        for number, value in values
        if isinstance(value, Repeating)
    ]


def _loads(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where}: {place}: not JSON ({error.msg})") from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{where}: not JSON that can be read ({error})") from error


def decode(data: bytes, where: str) -> str:
    """Text of UTF-8 bytes, without their byte order mark. Raises UserError with what to do."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{where}: UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{where}: byte {error.start} (line {line}) is not UTF-8: 0x{data[error.start]:02x}; "
            "save it as UTF-8"
        ) from error


def json_type(value: Any) -> str:
    """`an object`, `null`, ...: what JSON calls a value."""
    names = {
        dict: "an object",
        Repeating: "an object",
        list: "a list",
        str: "a string",
        bool: "true/false",
    }
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
