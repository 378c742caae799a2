"""Files that a task's own YAML names: found beside the YAML, and read as they are written.

`dataset_path: json` with `data_files:` is the usual way to bring one's own rows. datasets would
look for a relative file in the working directory, where another file of that name may be, and it
turns texts that look like dates into dates. Here the file is the one beside the YAML, and a string
stays a string.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from cl_bench.data.hub import dataset_of
from cl_bench.data.rows import first_faults, json_type, parse_objects, read_bytes
from cl_bench.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

_PATTERN = set("*?[")


def find_files_beside_yamls(manager: Any) -> None:
    """Makes a `TaskManager` of lm-eval resolve what its YAMLs name relative to each YAML."""
    factory = manager._factory
    load: Callable[..., dict[str, Any]] = factory._load_full_config

    def load_and_resolve(_: Any, entry: Any, overrides: Any = None) -> dict[str, Any]:
        config = load(entry, overrides)
        return beside_yaml(config, Path(entry.yaml_path).parent) if entry.yaml_path else config

    factory._load_full_config = MethodType(load_and_resolve, factory)


def beside_yaml(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A task's config with absolute local paths, and with our reader where it reads JSON files.

    Raises UserError for a file that is missing; what is no local path stays as it is.
    """
    config = dict(config)
    path, options = config.get("dataset_path"), dict(config.get("dataset_kwargs") or {})
    if isinstance(path, str) and path.startswith((".", "~")):
        config["dataset_path"] = str((folder / Path(path).expanduser()).resolve())
    for key in ("data_files", "data_dir"):
        if options.get(key) is not None:
            options[key] = _absolute(options[key], folder)
            config["dataset_kwargs"] = options
    plain = options.keys() <= {"data_files", "trust_remote_code"}
    if path == "json" and plain and _local(files := _by_split(options.get("data_files"))):
        names = dict.fromkeys(name for each in files.values() for name in each)
        if missing := [name for name in names if not Path(name).is_file()]:
            raise UserError([f"{name}: not found (data_files)" for name in missing])
        config["custom_dataset"] = json_files
    return config


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _absolute(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_absolute(each, folder) for each in value]
    if not isinstance(value, str) or "://" in value:
        return value
    return str((folder / Path(value).expanduser()).resolve())


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


def _dataset(rows: list[tuple[str, dict[str, Any]]]) -> Dataset:
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    return dataset_of([{name: row.get(name) for name in columns} for _, row in rows])
