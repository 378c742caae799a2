"""CSV, Parquet, Arrow and text files that a task's YAML names: which one cannot be read, and where.

datasets reads them. It names no file in its errors, and takes what pandas takes: a line that lacks
fields, a column that comes twice, NUL characters.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_bench.data.json_text import decode
from cl_bench.data.rows import MAX_FIELD, first_faults, read_bytes
from cl_bench.errors import UserError

KINDS = ("csv", "parquet", "arrow", "text")
"""Values of `dataset_path` that are kinds of files."""


def csv_faults(files: Iterable[Path], options: Mapping[str, Any]) -> list[str]:
    """What is wrong with the CSV files of a task, by line; none where pandas is told how to read.

    `options`: the task's `dataset_kwargs`, of which a separator is understood.
    """
    if options.keys() - {"data_files", "sep", "delimiter"}:
        return []
    separator = options.get("sep") or options.get("delimiter") or ","
    if not isinstance(separator, str) or len(separator) != 1:
        return []
    faults: list[str] = []
    for file in files:
        try:
            text = decode(read_bytes(file), str(file))
        except UserError as error:
            faults += error.faults
            continue
        faults += first_faults(list(_csv_lines(file, text, separator)), str(file))
    return faults


def _csv_lines(file: Path, text: str, separator: str) -> Iterator[str]:
    csv.field_size_limit(MAX_FIELD)
    # Lines end as they end in the file, within quotes too.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: Sequence[str] = []
    rows = 0
    try:
        for fields in reader:
            line = reader.line_num
            if not fields:
                continue
            if not names:
                names = fields
                if twice := sorted({name for name in names if names.count(name) > 1}):
                    yield f"{file}: line {line}: the column '{twice[0]}' comes twice"
                continue
            rows += 1
            if len(fields) != len(names):
                yield f"{file}: line {line}: {len(fields)} fields, the first line has {len(names)}"
            if any("\0" in field for field in fields):
                yield f"{file}: line {line}: a NUL character"
    except csv.Error as error:
        yield f"{file}: line {reader.line_num}: not CSV ({error})"
        return
    if not rows:
        yield f"{file}: no rows"


def unreadable(kind: Any, files: Iterable[Path]) -> list[str]:
    """Asked when a dataset of such files could not be made: those that cannot be read."""
    faults: list[str] = []
    if kind not in KINDS:
        return faults
    for file in files:
        try:
            rows = _READERS[kind](file)
        except UserError as error:
            faults += error.faults
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            faults.append(f"{file}: cannot be read as {kind} ({what})")
        else:
            if not rows:
                faults.append(f"{file}: no rows")
    return faults


def _parquet(file: Path) -> int:
    import pyarrow.parquet

    return int(pyarrow.parquet.read_table(file).num_rows)


def _arrow(file: Path) -> int:
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        try:
            return int(pa.ipc.open_stream(source).read_all().num_rows)
        except pa.ArrowInvalid:
            return int(pa.ipc.open_file(source).read_all().num_rows)


def _text(file: Path) -> int:
    return len(decode(read_bytes(file), str(file)).split())


_READERS: Mapping[str, Callable[[Path], int]] = {
    "csv": lambda file: len(decode(read_bytes(file), str(file))),
    "parquet": _parquet,
    "arrow": _arrow,
    "text": _text,
}
