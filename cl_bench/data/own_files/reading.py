"""The rows of files, folders of files and data sets of the Hub, each with its place."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.data.json_text import decode, parse_objects
from cl_bench.data.rows import MAX_FIELD, first_faults, read_bytes
from cl_bench.data.table_files import csv_faults
from cl_bench.errors import Absent, UserError

HUB = "hf://"
SPLITS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
}
"""Words that begin the names of a folder's files, as in the Hub's own folders."""
_SPLIT = re.compile(rf"({'|'.join(SPLITS)})(?:[-_.].*)?", re.IGNORECASE)
_HUB = re.compile(r"(?:datasets/)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::([\w.-]+))?")


@dataclass(frozen=True)
class Row:
    """A value that should be a row, and where it stands."""

    file: str
    unit: str
    """What `number` counts: line or row."""
    number: int
    value: Any


@dataclass(frozen=True)
class Source:
    """What a config's path holds: rows by split (`train`, `test`, `validation`)."""

    kind: str
    """As a report calls it: JSON lines, CSV, 3 files, ..."""
    splits: Mapping[str, list[Row]]


def read_source(given: str) -> Source:
    """The rows of a file, of a folder's files, or of `hf://owner/name[@revision][:subset]`.

    Files of a folder whose names begin with `test` or `validation` are those splits, all others
    are `train`. Raises UserError with every fault of every file.
    """
    if given.startswith(HUB):
        return _of_hub(given)
    path = Path(given)
    if not path.exists():
        raise UserError(f"{path}: not found")
    if not path.is_dir():
        kind, rows = _read(path)
        return Source(kind, {"train": rows})
    files = sorted(file for file in path.rglob("*") if _is_data(file, path))
    if not files:
        raise UserError(f"{path}: a folder without files of rows ({', '.join(_READERS)})")
    splits: dict[str, list[Row]] = {}
    faults: list[str] = []
    for file in files:
        try:
            _, rows = _read(file)
        except UserError as error:
            faults += error.faults
            continue
        splits.setdefault(_split_of(file), []).extend(rows)
    if faults:
        raise UserError(faults)
    return Source(f"{len(files)} file{'s' if len(files) > 1 else ''}", splits)


def _is_data(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden and file.suffix.lower() in _READERS


def _split_of(file: Path) -> str:
    found = _SPLIT.fullmatch(file.stem)
    return SPLITS[found[1].lower()] if found else "train"


def _read(path: Path) -> tuple[str, list[Row]]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path}: its name does not say what it holds: {', '.join(_READERS)} are read"
        )
    kind, rows = reader(path)
    if not rows:
        raise UserError(f"{path}: no rows")
    return kind, rows


def _json(path: Path) -> tuple[str, list[Row]]:
    unit, values, faults = parse_objects(read_bytes(path), str(path))
    if faults:
        raise UserError(first_faults(faults, str(path)))
    kind = "JSON lines" if unit == "line" else "a JSON list"
    return kind, [Row(str(path), unit, number, value) for number, value in values]


def _table(separator: str) -> Callable[[Path], tuple[str, list[Row]]]:
    def read(path: Path) -> tuple[str, list[Row]]:
        if faults := csv_faults([path], {"sep": separator}):
            raise UserError(faults)
        kind = "CSV" if separator == "," else "TSV"
        return kind, list(_lines(path, separator))

    return read


def _lines(path: Path, separator: str) -> Iterator[Row]:
    """The number is that of the line on which a row begins: texts may hold line ends."""
    csv.field_size_limit(MAX_FIELD)
    text = io.StringIO(decode(read_bytes(path), str(path)), newline="")
    reader = csv.reader(text, delimiter=separator, strict=True)
    names: list[str] = []
    begins = 1
    for fields in reader:
        if fields and names:
            value = dict(zip(names, fields, strict=True))
            yield Row(str(path), "line", begins, value)
        names = names or fields
        begins = reader.line_num + 1


def _parquet(path: Path) -> tuple[str, list[Row]]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        values = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path}: cannot be read as Parquet ({what})") from error
    return "Parquet", _numbered(str(path), values)


_READERS: Mapping[str, Callable[[Path], tuple[str, list[Row]]]] = {
    ".jsonl": _json,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
}


def _numbered(where: str, values: Iterable[Any]) -> list[Row]:
    return [Row(where, "row", number, value) for number, value in enumerate(values, 1)]


def _of_hub(given: str) -> Source:
    found = _HUB.fullmatch(given.removeprefix(HUB))
    if found is None:
        raise UserError(f"{given}: expected hf://owner/name, with @revision and :subset if needed")
    name, revision, subset = found.groups()
    from datasets import load_dataset

    try:
        loaded = load_dataset(name, subset, revision=revision)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason"
        raise UserError(
            Absent(f"{given}: could not be read from the Hub ({type(error).__name__}: {reason})")
        ) from error
    splits: dict[str, list[Row]] = {}
    for split, rows in loaded.items():
        known = SPLITS.get(str(split).lower())
        if known is not None:  # others, such as `train_prefs`, are not rows of this task unasked
            splits.setdefault(known, []).extend(_numbered(f"{given}: {split}", rows))
    if "train" not in splits:
        raise UserError(f"{given}: has no split 'train' (there: {', '.join(map(str, loaded))})")
    return Source("a data set of the Hub", splits)
