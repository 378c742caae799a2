"""Files that a task's own YAML names: found beside the YAML, and read as they are written.

`dataset_path: json` with `data_files:` is the usual way to bring one's own rows. datasets would
look for a relative file in the working directory, where another file of that name may be, and it
turns texts that look like dates into dates. Here the file is the one beside the YAML, and a string
stays a string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from cl_bench.data.hub import dataset_of
from cl_bench.data.json_text import json_type, parse_objects
from cl_bench.data.rows import first_faults, read_bytes
from cl_bench.data.table_files import KINDS, csv_faults
from cl_bench.data.task_yaml import shape_faults
from cl_bench.errors import UserError
from cl_bench.resources import absolute

if TYPE_CHECKING:
    from datasets import Dataset

_PATTERN = set("*?[")


def find_files_beside_yamls(manager: Any) -> None:
    """Makes a `TaskManager` of lm-eval resolve what its YAMLs name relative to each YAML."""
    factory = manager._factory
    load: Callable[..., dict[str, Any]] = factory._load_full_config

    def load_and_resolve(_: Any, entry: Any, overrides: Any = None) -> dict[str, Any]:
        config = load(entry, overrides)
        if faults := shape_faults(config):
            where = f"{entry.yaml_path}: " if entry.yaml_path else ""
            raise UserError([f"{where}{fault}" for fault in faults])
        return beside_yaml(config, Path(entry.yaml_path).parent) if entry.yaml_path else config

    factory._load_full_config = MethodType(load_and_resolve, factory)


def beside_yaml(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A task's config with absolute local paths, and with our reader where it reads JSON files.

    Raises UserError for a file that is missing, and for CSV that is none; what is no local path
    stays as it is.
    """
    config = absolute_paths(config, folder)
    options = config.get("dataset_kwargs") or {}
    names = table_files(config)
    if missing := [name for name in names if not name.is_file()]:
        raise UserError([f"{name}: not found (data_files)" for name in missing])
    if config.get("dataset_path") == "csv" and (faults := csv_faults(names, options)):
        raise UserError(faults)
    plain = options.keys() <= {"data_files", "trust_remote_code"}
    if config.get("dataset_path") == "json" and plain and names:
        config["custom_dataset"] = json_files
    return config


def absolute_paths(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The config with its local paths, which are relative to the folder of its YAML."""
    found = dict(config)
    path, given = found.get("dataset_path"), found.get("dataset_kwargs")
    if isinstance(path, str) and path.startswith((".", "~")):
        found["dataset_path"] = str(absolute(path, folder))
    if isinstance(given, Mapping):
        places = {key: given[key] for key in ("data_files", "data_dir") if given.get(key)}
        moved = {key: _absolute(value, folder) for key, value in places.items()}
        found["dataset_kwargs"] = {**given, **moved}
    return found


def table_files(config: Mapping[str, Any]) -> list[Path]:
    """The local files of a task whose `dataset_path` is a kind of file; none of any other task."""
    options = config.get("dataset_kwargs")
    if config.get("dataset_path") not in ("json", *KINDS) or not isinstance(options, Mapping):
        return []
    files = _by_split(options.get("data_files"))
    if not _local(files):
        return []
    return list(dict.fromkeys(Path(name) for each in files.values() for name in each))


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _absolute(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_absolute(each, folder) for each in value]
    if not isinstance(value, str) or "://" in value:
        return value
    return str(absolute(value, folder))


def _by_split(files: Any) -> dict[str, list[str]]:
    """`data_files` as datasets takes it: a mapping of splits, or files of the split `train`."""
    splits = files if isinstance(files, Mapping) else {"train": files}
    return {
        str(split): [str(name) for name in (each if isinstance(each, list) else [each])]
        for split, each in splits.items()
        if each
    }


def _local(files: Mapping[str, list[str]]) -> bool:
    names = [name for each in files.values() for name in each]
    return bool(names) and not any("://" in name or _PATTERN & set(name) for name in names)


def json_files(*, data_files: Any, **_: Any) -> dict[str, Dataset]:
    """The splits of a YAML's `data_files`, JSON lists or JSON lines.

    Every split has the same columns, in the order in which they first appear; a column that a row
    lacks is null. Raises UserError for what is no JSON, rows that are no objects, no rows, and
    columns whose values are of several kinds (numbers among strings).
    """
    tables: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    faults: list[str] = []
    for split, names in _by_split(data_files).items():
        rows: list[tuple[str, dict[str, Any]]] = []
        for name in names:
            found, wrong = _rows(Path(name))
            rows += found
            faults += wrong
        if not rows and not faults:
            faults.append(f"{', '.join(names)}: no rows")
        tables[split] = rows
    faults = faults or _mixed(tables)
    if faults:
        raise UserError(list(dict.fromkeys(faults)))
    return {split: _dataset(rows) for split, rows in tables.items()}


def _rows(path: Path) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """(place, row) of every row of a file, and its faults."""
    try:
        unit, values, faults = parse_objects(read_bytes(path), str(path))
    except UserError as error:
        return [], error.faults
    rows = []
    for number, value in values:
        place = f"{path}: {unit} {number}"
        if isinstance(value, dict):
            rows.append((place, value))
        else:
            faults.append(f"{place}: {json_type(value)}, not an object")
    return rows, first_faults(faults, str(path))


def _mixed(tables: Mapping[str, list[tuple[str, dict[str, Any]]]]) -> list[str]:
    """Columns that hold values of several kinds, over all splits."""
    kinds: dict[str, str] = {}
    faults: list[str] = []
    for rows in tables.values():
        for place, row in rows:
            for name, value in row.items():
                kind = json_type(value)
                if value is not None and kinds.setdefault(name, kind) != kind:
                    faults.append(f"{place}: '{name}' is {kind}, in the rows before {kinds[name]}")
    return first_faults(faults, "data_files")


_NO_COLUMN = (ValueError, TypeError, OverflowError, RuntimeError)
"""What Arrow and datasets raise: nested too deeply and not implemented are RuntimeErrors."""


def _dataset(rows: list[tuple[str, dict[str, Any]]]) -> Dataset:
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    values = [{name: row.get(name) for name in columns} for _, row in rows]
    try:
        return dataset_of(values)
    except _NO_COLUMN as error:
        raise UserError(_first_odd(rows, columns) or f"{rows[0][0]}: {error}") from error


def _first_odd(rows: list[tuple[str, dict[str, Any]]], columns: Iterable[str]) -> str | None:
    """The first row whose value does not go with those above it, as a fault."""
    for name in columns:
        values = [row.get(name) for _, row in rows]
        good, bad = 0, len(values) + 1  # of the first so many the column can be made, or not
        while bad - good > 1:
            middle = (good + bad) // 2
            if (fault := _no_column(name, values[:middle])) is None:
                good = middle
            else:
                bad, why = middle, fault
        if bad <= len(values):
            return f"{rows[bad - 1][0]}: {name!r}: {why}"
    return None


def _no_column(name: str, values: list[Any]) -> str | None:
    try:
        name.encode()
        dataset_of([{name: value} for value in values])
    except UnicodeEncodeError:
        return "half a character (no valid Unicode)"
    except RecursionError:
        return "nested too deeply"
    except _NO_COLUMN as error:
        return " ".join(str(error).split())[:200]
    return None
