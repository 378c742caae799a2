"""What the task YAMLs read: JSON and JSON-lines files under `data_root`, checked row by row.

The YAMLs name these functions as `custom_dataset`; lm-evaluation-harness passes them the
`TaskManager`'s metadata (with `data_root`) and the YAML's `dataset_kwargs` as keyword arguments.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.errors import Absent, UserError
from cl_bench.resources import user_cache

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
MAX_FAULTS = 20
"""Faults listed for one file; the rest are counted."""


@dataclass(frozen=True)
class Field:
    """A column: whether a value is accepted, what to call that, and what stands for none."""

    accepts: Callable[[Any], bool]
    expected: str
    default: Any = None
    """Used when the row lacks the field; None means that it may not."""


def _is_text(value: Any) -> bool:
    # JSON can spell half of a surrogate pair, which no tokenizer takes.
    return isinstance(value, str) and not _SURROGATE.search(value)


_SURROGATE = re.compile("[\ud800-\udfff]")
TEXT = Field(_is_text, "a string of whole characters")
TEXT_OR_NOTHING = Field(_is_text, "a string of whole characters", default="")
BINARY = Field(lambda value: type(value) is int and value in (0, 1), "0 or 1")
TRUE_FALSE = Field(lambda value: value in ("true", "false"), 'the string "true" or "false"')

PROMPT_ANSWER = {"prompt": TEXT, "answer": TEXT_OR_NOTHING}
"""TRACE's rows; a row without an answer has the empty one, as in TRACE's loader."""


def resolve_data_root(data_root: str | os.PathLike[str] | None) -> Path:
    """`data_root`, else `$CL_BENCH_DATA_ROOT`, else `data/` in the user cache; absolute."""
    chosen = data_root or os.environ.get("CL_BENCH_DATA_ROOT") or user_cache() / "data"
    return Path(chosen).expanduser().resolve()


def json_splits(
    *, folder: str, data_root: str | os.PathLike[str] | None = None, **_: Any
) -> dict[str, Dataset]:
    """`<data_root>/<folder>/{train,eval,test}.json`, each a list of {"prompt", "answer"}.

    Returns datasets with the string columns `prompt` and `answer`; `eval.json` may be missing.
    Raises UserError with every fault of the three files.
    """
    root = resolve_data_root(data_root)
    if not (root / folder).is_dir():
        raise UserError(_missing(root / folder, folder))
    splits: dict[str, Dataset] = {}
    faults: list[str] = []
    for split in ("train", "eval", "test"):
        path = root / folder / f"{split}.json"
        if not path.is_file():
            faults += [] if split == "eval" else [_missing(path, folder)]
            continue
        try:
            rows = read_json(path, PROMPT_ANSWER)
            if not rows and split != "eval":
                faults.append(f"{path}: has no rows")
            splits[split] = text_dataset(rows, PROMPT_ANSWER)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return splits


def _missing(path: Path, folder: str) -> str:
    suite = Path(folder).parts[0]
    return Absent(
        f"{path}: not found; get it with `cl-bench data get {suite}`, or name the folder that "
        f"holds {folder}/ with `-o data_root=...` (or CL_BENCH_DATA_ROOT)"
    )


def read_json(path: Path, fields: Mapping[str, Field]) -> list[Row]:
    """Rows of a JSON list of objects, with `fields` only. UserError lists the faulty rows."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: line {error.lineno}, column {error.colno}: not JSON ({error.msg})"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start})") from error
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a JSON list of rows, found {_kind(content)}")
    return _checked(path, ((f"row {i}", row) for i, row in enumerate(content, 1)), fields)


def read_jsonl(path: Path, fields: Mapping[str, Field]) -> list[Row]:
    """Rows of a JSON-lines file, with `fields` only. UserError lists the faulty lines."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start})") from error
    rows: list[tuple[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            rows.append((f"line {number}", _json_or_error(line)))
    return _checked(path, rows, fields)


def _json_or_error(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return error


def _checked(path: Path, rows: Iterable[tuple[str, Any]], fields: Mapping[str, Field]) -> list[Row]:
    good: list[Row] = []
    faults: list[str] = []
    for place, row in rows:
        found = _row_faults(row, fields)
        if found:
            faults += [f"{path}: {place}: {fault}" for fault in found]
        else:
            good.append({name: row.get(name, field.default) for name, field in fields.items()})
    if faults:
        raise UserError(capped(faults, str(path)))
    return good


def capped(faults: list[str], where: str) -> list[str]:
    """The first faults of one place, and how many more there are."""
    more = len(faults) - MAX_FAULTS
    return faults if more <= 0 else [*faults[:MAX_FAULTS], f"{where}: and {more} more faults"]


def _row_faults(row: Any, fields: Mapping[str, Field]) -> list[str]:
    if isinstance(row, json.JSONDecodeError):
        return [f"not JSON (column {row.colno}: {row.msg})"]
    if not isinstance(row, dict):
        return [f"expected an object with {', '.join(fields)}, found {_kind(row)}"]
    faults = []
    for name, field in fields.items():
        if name not in row:
            faults += [f"'{name}' is missing"] if field.default is None else []
        elif not field.accepts(row[name]):
            faults.append(f"'{name}' must be {field.expected}, found {_kind(row[name])}")
    return faults


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    if isinstance(value, (str, bool, int, float)) and len(str(value)) <= 20:
        text = json.dumps(value, ensure_ascii=False)
        return text.encode(errors="backslashreplace").decode()
    return names.get(type(value), "a number")


def text_dataset(rows: list[Row], fields: Mapping[str, Field]) -> Dataset:
    """A dataset of checked rows; strings and integers keep their type even without rows."""
    from datasets import Dataset, Features, Value

    types = {name: "int64" if field is BINARY else "string" for name, field in fields.items()}
    features = Features({name: Value(kind) for name, kind in types.items()})
    columns = {name: [row[name] for row in rows] for name in fields}
    return Dataset.from_dict(columns, features=features)
