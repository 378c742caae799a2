"""Rows of data files: what each kind of file holds, and the one reader that says what is wrong.

`run`, `plan` and every `cl-bench data` command read through here, so that they agree on what a file
is: a JSON list of objects or JSON lines, whatever its ending says, in UTF-8 with or without a byte
order mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cl_bench.data.json_text import json_type, parse_objects
from cl_bench.errors import UserError, nearest

MAX_FIELD = 2_000_000
"""Characters in one text. TRACE's longest prompt has 373,826; beyond this a file is not TRACE's."""
MAX_FILE = 512 * 2**20
"""Bytes in one file. The whole TRACE archive is smaller."""
MAX_FAULTS = 20
"""Faults listed for one file; the rest are counted."""


def _whole(text: str) -> str:
    """What keeps a text from a tokenizer is a ValueError; its message is the fault."""
    if len(text) > MAX_FIELD:
        raise ValueError(f"{len(text):,} characters, more than the {MAX_FIELD:,} allowed")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"lone surrogate at character {error.start} (not valid Unicode)"
        raise ValueError(message) from error
    return text


def _with_final_answer(text: str) -> str:
    if not re.search(r"#### \S", text):
        raise ValueError("no final answer after '#### '")
    return text


def _filled(text: str) -> str:
    if not text:
        raise ValueError("empty")
    return text


def _binary(value: Any) -> int:
    if type(value) is not int or value not in (0, 1):
        raise ValueError("not one of 0, 1")
    return value


Text = Annotated[str, AfterValidator(_whole)]


Filled = Annotated[Text, AfterValidator(_filled)]
Binary = Annotated[int, BeforeValidator(_binary)]


class RowModel(BaseModel):
    """A row of some file; fields that are not named are left out, values are not converted."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class TraceRow(RowModel):
    """`trace/<Task>/*.json`."""

    prompt: Text
    answer: Text


class Row(NamedTuple):
    """One example of a TRACE file."""

    prompt: str
    answer: str


class BbhRow(RowModel):
    """`general/bbh/test.jsonl`."""

    task: Text
    input: Text
    target: Text


class BbhExamples(RowModel):
    """`general/bbh/dev.jsonl`: the worked examples of one problem, as their authors wrote them."""

    task: Text
    cot_prompt: Text


class BoolqRow(RowModel):
    """`general/boolq/test.jsonl`."""

    question: Text
    passage: Text
    label: Literal["true", "false"]


class BoolqSentence(RowModel):
    """`general/boolq/dev.jsonl`."""

    sentence: Text
    label: Literal["True", "False"]


class Gsm8kRow(RowModel):
    """`general/gsm8k/*.jsonl`."""

    question: Text
    answer: Annotated[Text, AfterValidator(_with_final_answer)]


class MmluRow(RowModel):
    """`general/mmlu/*.jsonl`."""

    subject: Text
    question: Text
    A: Text
    B: Text
    C: Text
    D: Text
    answer: Literal["A", "B", "C", "D"]


class PiqaRow(RowModel):
    """`general/piqa/test.jsonl`."""

    goal: Text
    sol1: Filled
    sol2: Filled
    label: Binary


class AcceptedAnswer(RowModel):
    """One of TyDiQA's accepted answers."""

    text: Text


class TydiqaRow(RowModel):
    """`general/tydiqa/*.jsonl`."""

    id: Text
    title: Text
    language: Text
    context: Text
    question: Text
    answers: Annotated[list[AcceptedAnswer], Field(min_length=1)]


class HumanevalRow(RowModel):
    """`code/humaneval/test.jsonl`."""

    task_id: Text
    prompt: Text
    entry_point: Text
    canonical_solution: Text
    test: Text


class IfevalRow(RowModel):
    """`general/ifeval/test.jsonl`."""

    key: int
    prompt: Text
    instruction_id_list: list[Text]
    options: Annotated[list[dict[str, Any]], Field(alias="kwargs")]
    """Of each instruction; a key that is null counts as absent."""


R = TypeVar("R", bound=RowModel)


def trace_rows(path: Path) -> list[Row]:
    """The examples of a TRACE file. Raises UserError with every fault; none at all is one."""
    return parse_trace(read_bytes(path), str(path))


def parse_trace(data: bytes, where: str) -> list[Row]:
    """The examples of a TRACE file's bytes. Raises UserError as `trace_rows` does."""
    rows = [Row(row.prompt, row.answer) for row in parse_rows(data, where, TraceRow)]
    if not rows:
        raise UserError(f"{where}: no examples")
    return rows


def read_rows(path: Path, model: type[R]) -> list[R]:
    """The rows of a file. Raises UserError with every fault; a file may have no rows."""
    return parse_rows(read_bytes(path), str(path), model)


def parse_rows(data: bytes, where: str, model: type[R]) -> list[R]:
    """The rows of a file's bytes; `where` names the file in faults.

    Raises UserError: what is no JSON, and every faulty row, rows with the same fault together.
    """
    unit, values, faults = parse_objects(data, where)
    good: list[R] = []
    found: dict[str, list[int]] = {}
    for number, value in values:
        row, error = validated(value, model)
        if row is not None:
            good.append(row)
        for fault in row_faults(value, model, error) if error else ():
            found.setdefault(fault, []).append(number)
    faults += [f"{where}: {unit} {ranges(rows)}: {fault}" for fault, rows in found.items()]
    if faults:
        raise UserError(first_faults(faults, where))
    return good


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises UserError when it cannot be read or is no data file by its size."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise UserError(f"{path}: {size:,} bytes, more than the {MAX_FILE:,} allowed")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def first_faults(faults: Sequence[str], where: str) -> list[str]:
    """The first faults of one place, and how many more there are."""
    more = len(faults) - MAX_FAULTS
    if more <= 0:
        return list(faults)
    return [*faults[:MAX_FAULTS], f"{where}: and {more} more faults"]


def validated(value: Any, model: type[R]) -> tuple[R, None] | tuple[None, ValidationError]:
    """A value as a row, or what pydantic has against it."""
    try:
        return model.model_validate(value), None
    except ValidationError as error:
        return None, error


def row_faults(value: Any, model: type[RowModel], error: ValidationError) -> list[str]:
    """What pydantic found, in the words of a data file."""
    if not isinstance(value, dict):
        return [f"{json_type(value)}, not an object with {', '.join(model.model_fields)}"]
    faults: list[str] = []
    for one in error.errors():
        name = ".".join(str(part) for part in one["loc"])
        if one["type"] == "missing" and len(one["loc"]) == 1:
            faults.append(f"field '{name}': missing{_instead(name, value, model.model_fields)}")
        else:
            faults.append(f"field '{name}': {_value_fault(one)}")
    return faults


def _instead(name: str, value: Mapping[str, Any], known: Iterable[str]) -> str:
    """The column that was meant, or those that are there."""
    others = [key for key in value if key not in known]
    hint = nearest(name, others) if others else ""
    if "did you mean" in hint:
        return hint
    there = ", ".join(list(value)[:8]) or "nothing"
    return f" (the row has {there})"


_EXPECTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "an object",
    "missing": "there",
}


def _value_fault(one: Mapping[str, Any]) -> str:
    kind = one["type"]
    if kind == "value_error":
        return str(one["ctx"]["error"])
    if kind in _EXPECTED:
        return f"{json_type(one['input'])}, not {_EXPECTED[kind]}"
    if kind == "literal_error":
        return f"not one of {one['ctx']['expected'].replace(' or ', ', ')}"
    return f"{json_type(one['input'])}: {one['msg']}"


def ranges(numbers: list[int]) -> str:
    """`1-3, 7` for 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
