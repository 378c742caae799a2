"""What the task YAMLs read: TRACE's files under `data_root`, checked row by row.

The YAMLs name these functions as `custom_dataset`; lm-evaluation-harness passes them the
`TaskManager`'s metadata (with `data_root`) and the YAML's `dataset_kwargs` as keyword arguments.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.data.rows import TraceRow, read_rows
from cl_bench.errors import Absent, UserError
from cl_bench.resources import absolute, user_cache

if TYPE_CHECKING:
    from datasets import Dataset


def resolve_data_root(data_root: str | os.PathLike[str] | None) -> Path:
    """`data_root`, else `$CL_BENCH_DATA_ROOT`, else `data/` in the user cache; absolute."""
    chosen = data_root or os.environ.get("CL_BENCH_DATA_ROOT") or user_cache() / "data"
    return absolute(chosen)


def json_splits(
    *, folder: str, data_root: str | os.PathLike[str] | None = None, **_: Any
) -> dict[str, Dataset]:
    """`<data_root>/<folder>/{train,eval,test}.json`, rows of {"prompt", "answer"}.

    A JSON list or JSON lines, which may also be named `.jsonl`.
    Returns datasets with the string columns `prompt` and `answer`; `eval.json` may be missing.
    Raises UserError with every fault of the three files.
    """
    root = resolve_data_root(data_root)
    if not (root / folder).is_dir():
        raise UserError(_missing(root / folder, folder))
    splits: dict[str, Dataset] = {}
    faults: list[str] = []
    for split in ("train", "eval", "test"):
        path = trace_file(root / folder, split)
        if not path.is_file():
            faults += [] if split == "eval" else [_missing(path, folder)]
            continue
        try:
            rows = read_rows(path, TraceRow)
            if not rows and split != "eval":
                faults.append(f"{path}: has no rows")
            columns = {name: [getattr(row, name) for row in rows] for name in TraceRow.model_fields}
            splits[split] = text_dataset(columns)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return splits


def _missing(path: Path, folder: str) -> str:
    suite = Path(folder).parts[0]
    return Absent(
        f"{path}: not found; get it with `cl-bench data get {suite}`, import a download with "
        f"`cl-bench data import`, or name the folder that holds {folder}/ with `-o data_root=...` "
        "(or CL_BENCH_DATA_ROOT)"
    )


def trace_file(folder: Path, split: str) -> Path:
    """`<split>.json` of a task's folder, or `<split>.jsonl` where only that is there."""
    lines = folder / f"{split}.jsonl"
    plain = folder / f"{split}.json"
    return lines if lines.is_file() and not plain.is_file() else plain


def text_dataset(columns: dict[str, list[Any]]) -> Dataset:
    """A dataset of text columns, which keep their type even without rows."""
    from datasets import Dataset, Features, Value

    features = Features({name: Value("string") for name in columns})
    return Dataset.from_dict(columns, features=features)
