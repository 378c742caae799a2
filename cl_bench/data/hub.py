"""General benchmarks: the file under `data_root` when it is there, else the Hub's dataset."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.data.rows import RowModel, read_rows
from cl_bench.data.sources import resolve_data_root
from cl_bench.errors import Absent, UserError

if TYPE_CHECKING:
    from datasets import Dataset


def no_rows(path: Path) -> str:
    """The fault of a benchmark's file that is empty."""
    return f"{path}: has no rows; get it with `cl-bench data get general`"


def general_split(
    folder: str,
    model: type[RowModel],
    hub: Mapping[str, Any],
    columns: Sequence[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    convert: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Dataset:
    """Test documents of one benchmark.

    `folder` is relative to the data root and holds `test.jsonl` with rows of `model`; `convert`
    maps a row of it to the form of the Hub's rows, whose columns are `columns`.
    `hub` holds the arguments of `datasets.load_dataset`, a split among them.
    Raises UserError when the file is wrong, or when it is missing and the Hub cannot be read.
    """
    path = resolve_data_root(data_root) / folder / "test.jsonl"
    if path.is_file():
        rows = [convert(row.model_dump()) for row in read_rows(path, model)]
        if not rows:
            raise UserError(no_rows(path))
        return dataset_of(rows)
    remedy = "get it with `cl-bench data get general` or name its folder with `-o data_root=...`"
    return split_of_hub(hub, columns, path, remedy)


def split_of_hub(
    hub: Mapping[str, Any], columns: Sequence[str], missing: Path, remedy: str
) -> Dataset:
    """A split of the Hub, its `columns` alone; UserError names the file that would do as well."""
    from datasets import load_dataset

    try:
        dataset: Dataset = load_dataset(**hub)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason"
        raise UserError(
            Absent(
                f"{missing}: not found, and the Hub's {hub['path']} could not be read "
                f"({type(error).__name__}: {reason}); {remedy}"
            )
        ) from error
    return dataset.select_columns(list(columns))


def dataset_of(rows: list[dict[str, Any]]) -> Dataset:
    """A dataset in memory; strings stay strings, whatever they look like."""
    from datasets import Dataset
    from datasets.table import InMemoryTable

    # A fingerprint of our own: the default one pickles the dataset, half of the time to load MMLU.
    content = json.dumps(rows, ensure_ascii=False).encode()
    fingerprint = hashlib.sha256(content).hexdigest()[:16]
    return Dataset(InMemoryTable.from_pylist(rows), fingerprint=fingerprint)
