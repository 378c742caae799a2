"""General benchmarks: the file under `data_root` when it is there, else the Hub's dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.data.sources import Field, Row, read_jsonl, resolve_data_root, text_dataset
from cl_bench.errors import Absent, UserError

if TYPE_CHECKING:
    from datasets import Dataset


def no_rows(path: Path) -> str:
    """The fault of a benchmark's file that is empty."""
    return f"{path}: has no rows; get it with `cl-bench data get general`"


def general_split(
    folder: str,
    fields: Mapping[str, Field],
    hub: Mapping[str, Any],
    *,
    data_root: str | os.PathLike[str] | None = None,
    convert: Callable[[Row], Row] | None = None,
    converted: Mapping[str, Field] | None = None,
) -> Dataset:
    """Test documents of one benchmark.

    `folder` is relative to the data root and holds `test.jsonl` with `fields`; `convert` maps a
    row of it to the form of the Hub's rows, whose columns are `converted` (default: `fields`).
    `hub` holds the arguments of `datasets.load_dataset`, a split among them.
    Raises UserError when the file is wrong, or when it is missing and the Hub cannot be read.
    """
    path = resolve_data_root(data_root) / folder / "test.jsonl"
    columns = converted or fields
    if path.is_file():
        rows = read_jsonl(path, fields)
        if not rows:
            raise UserError(no_rows(path))
        return text_dataset([convert(row) for row in rows] if convert else rows, columns)
    from datasets import load_dataset

    try:
        dataset: Dataset = load_dataset(**hub)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason"
        raise UserError(
            Absent(
                f"{path}: not found, and the Hub's {hub['path']} could not be read "
                f"({type(error).__name__}: {reason}); get it with `cl-bench data get general` or "
                "name its folder with `-o data_root=...`"
            )
        ) from error
    return dataset.select_columns(list(columns))
