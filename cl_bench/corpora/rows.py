"""Reading data files strictly: every fault with its file, row or line, and field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cl_bench.errors import UserError, nearest

MAX_FIELD = 2_000_000
"""Characters in one text. TRACE's longest prompt has 373,826; beyond this a file is not TRACE's."""
MAX_LINE = 4 * 2**20
"""Bytes in one line of a .jsonl file."""
MAX_FILE = 512 * 2**20
"""Bytes in one file. The whole TRACE archive is smaller."""

FieldCheck = Callable[[Any], str | None]
"""What is wrong with a value, or None."""


class Row(NamedTuple):
    """One example of a TRACE file."""

    prompt: str
    answer: str


def text_fault(value: Any) -> str | None:
    """What keeps a value from being a text a tokenizer can take; None if nothing does."""
    if not isinstance(value, str):
        return f"{_json_type(value)}, not a string"
    if len(value) > MAX_FIELD:
        return f"{len(value):,} characters, more than the {MAX_FIELD:,} allowed"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"lone surrogate at character {error.start} (not valid Unicode)"
    return None


def prompt_fault(value: Any) -> str | None:
    """As `text_fault`; a prompt is not empty either (an answer may be: Lima's test split)."""
    return text_fault(value) or ("empty" if value == "" else None)


TRACE_FIELDS: Mapping[str, FieldCheck] = {"prompt": prompt_fault, "answer": text_fault}


def read_rows(path: Path) -> list[Row]:
    """The examples of a TRACE file. Raises UserError listing every fault of the file."""
    return parse_rows(_read_bytes(path), str(path))


def parse_rows(data: bytes, where: str) -> list[Row]:
    """The examples of a TRACE file's bytes: a JSON list of `{"prompt": str, "answer": str}`.

    Rows are counted from 1. Raises UserError listing every fault, rows with the same fault
    together; `where` names the file in it.
    """
    text = _decode(data, where)
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise UserError(f"{where}: {place}: not JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{where}: not JSON that can be read: {error}") from error
    if not isinstance(items, list):
        raise UserError(f"{where}: {_json_type(items)}, not a list of examples")
    if not items:
        raise UserError(f"{where}: no examples")
    _raise_faults(where, "row", ((i, item) for i, item in enumerate(items, 1)), TRACE_FIELDS)
    return [Row(item["prompt"], item["answer"]) for item in items]


def read_json_lines(path: Path, fields: Mapping[str, FieldCheck]) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, blank lines left out.

    Raises UserError listing every fault: line, field and what is wrong with it.
    """
    where, faults, items = str(path), [], []
    for number, line in enumerate(_read_bytes(path).split(b"\n"), 1):
        if len(line) > MAX_LINE:
            faults.append(f"{where}: line {number}: {len(line):,} bytes, limit {MAX_LINE:,}")
        elif line.strip():
            try:
                items.append((number, json.loads(_decode(line, f"{where}: line {number}"))))
            except UserError as error:
                faults += error.faults
            except (RecursionError, ValueError) as error:
                faults.append(f"{where}: line {number}: not JSON: {error}")
    _raise_faults(where, "line", items, fields, faults)
    if not items:
        raise UserError(f"{where}: no examples")
    return [item for _, item in items]


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise UserError(f"{path}: {size:,} bytes, more than the {MAX_FILE:,} allowed")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{where}: byte {error.start} (line {line}) is not UTF-8: 0x{data[error.start]:02x}"
        ) from error


def _raise_faults(
    where: str,
    unit: str,
    items: Iterable[tuple[int, Any]],
    fields: Mapping[str, FieldCheck],
    faults: Iterable[str] = (),
) -> None:
    """Raises UserError if an item is not an object with these fields, or `faults` has any."""
    found: dict[str, list[int]] = {}
    for number, item in items:
        for fault in _object_faults(item, fields):
            found.setdefault(fault, []).append(number)
    grouped = [f"{where}: {unit} {_ranges(rows)}: {fault}" for fault, rows in found.items()]
    if all_faults := [*faults, *grouped]:
        raise UserError(all_faults)


def _object_faults(item: Any, fields: Mapping[str, FieldCheck]) -> list[str]:
    if not isinstance(item, dict):
        return [f"{_json_type(item)}, not an object with {' and '.join(fields)}"]
    faults = []
    for name, check in fields.items():
        if name not in item:
            others = [key for key in item if key not in fields]
            faults.append(f"field '{name}': missing{nearest(name, others) if others else ''}")
        elif fault := check(item[name]):
            faults.append(f"field '{name}': {fault}")
    return faults


def _ranges(numbers: list[int]) -> str:
    """`1-3, 7` for 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true/false"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names[type(value)]
