"""Reads predictions made by any program, one JSON object a line, and scores them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cl_bench.data.json_text import Repeating, parse_json
from cl_bench.data.rows import ranges
from cl_bench.errors import UserError, nearest
from cl_bench.metrics.similarity import BACKENDS, Backend
from cl_bench.metrics.trace import CorpusScore, score_corpus
from cl_bench.metrics.trace_tasks import trace_task

STDIN = "-"
# TRACE's longest prompt has 374 thousand characters; more is a mistake in the file.
MAX_FIELD_CHARACTERS = 1_000_000
MAX_LINE_BYTES = 64 << 20
MAX_FAULTS = 20


@dataclass(frozen=True)
class Predictions:
    """Columns of a predictions file; `sources` is None where the metric does not read it."""

    predictions: Sequence[str]
    references: Sequence[str]
    sources: Sequence[str] | None


def score_file(task: str, file: str, backend: str = "difflib") -> CorpusScore:
    """Score a file of predictions (`-`: standard input) with the metrics of a TRACE task.

    Raises UserError with every fault of the arguments, else of the file.
    """
    faults: list[str] = []
    spec = None
    try:
        spec = trace_task(task)
    except UserError as error:
        faults += [f"--task: {fault}" for fault in error.faults]
    chosen: Backend = next((known for known in BACKENDS if known == backend), "difflib")
    if chosen != backend:
        faults.append(
            f"--similarity-backend: unknown backend '{backend}'{nearest(backend, BACKENDS)}"
        )
    faults += _file_faults(file)
    if faults or spec is None:
        raise UserError(faults)
    with _open(file) as stream:
        data = read_predictions(stream, _shown(file), needs_input=spec.needs_input)
    return score_corpus(spec.name, data.predictions, data.references, data.sources, backend=chosen)


def read_predictions(stream: BinaryIO, name: str, *, needs_input: bool) -> Predictions:
    """Read `prediction`, `reference` and, if needed, `input` of every line that is not blank.

    `target` is read where there is no `reference`: files that a run of ours leaves are named so.
    Other fields are ignored. Raises UserError with every fault (the first 20, and how many more) as
    `name:line: field: what is wrong`, equal ones together, and when there is no line at all.
    """
    fields = ("prediction", "reference", "input") if needs_input else ("prediction", "reference")
    rows: list[list[str]] = []
    found: dict[str, list[int]] = {}
    for number, line in enumerate(_lines(stream), start=1):
        if not line.strip():
            continue
        row = _Row(fields).read(line)
        for fault in row.faults:
            found.setdefault(fault, []).append(number)
        rows.append(row.values)
    faults = [f"{name}:{ranges(lines)}: {fault}" for fault, lines in found.items()]
    if len(faults) > MAX_FAULTS:
        faults[MAX_FAULTS:] = [f"{name}: and {len(faults) - MAX_FAULTS} more faults"]
    if not rows:
        faults.append(f"{name}: no predictions")
    if faults:
        raise UserError(faults)
    columns = list(zip(*rows, strict=True))
    return Predictions(columns[0], columns[1], columns[2] if needs_input else None)


@dataclass
class _Row:
    """One line: the values of its fields, or what is wrong with it."""

    fields: Sequence[str]
    values: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def read(self, line: bytes) -> _Row:
        if len(line) > MAX_LINE_BYTES:
            return self._fault(f"over {MAX_LINE_BYTES >> 20} MB in one line")
        broken = ""
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            # Bytes that are not UTF-8 become lone surrogates, so that the field can be named.
            text = line.decode("utf-8", "surrogateescape")
            broken = f"not UTF-8 from byte {error.start + 1} on"
        try:
            record = parse_json(text.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            return self._fault(broken or f"not JSON: {error}")
        if not isinstance(record, dict):
            return self._fault(f"an object is needed, not {_type_name(record)}")
        if isinstance(record, Repeating):
            return self._fault(f"{record.key}: stands twice in the line")
        if "prompt_hash" in record and "not_measured" in record:  # a line of a run of ours
            return self._fault(f"not measured: {record['not_measured']}")
        if "reference" not in record and "target" in record:
            record["reference"] = record["target"]
        for key in self.fields:
            self._read_field(key, record, bool(broken))
        return self._fault(broken) if broken and not self.faults else self

    def _read_field(self, key: str, record: dict[str, Any], broken: bool) -> None:
        if key not in record:
            there = ", ".join(list(record)[:8]) or "nothing"
            self._fault(f"{key}: missing (the line has {there})")
        elif not isinstance(value := record[key], str):
            self._fault(f"{key}: a string is needed, not {_type_name(value)}")
        elif len(value) > MAX_FIELD_CHARACTERS:
            limit = f"{MAX_FIELD_CHARACTERS:,}"
            self._fault(f"{key}: {len(value):,} characters; at most {limit} are read")
        elif not broken and any("\ud800" <= character <= "\udfff" for character in value):
            self._fault(f"{key}: half a character (no valid Unicode)")
        elif broken and any("\udc80" <= character <= "\udcff" for character in value):
            self._fault(f"{key}: not UTF-8")
        else:
            self.values.append(value)

    def _fault(self, what: str) -> _Row:
        self.faults.append(what)
        return self


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines, of which an overlong one is cut just above the limit and its rest dropped."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES + 1)
        yield line


def _type_name(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a string" if isinstance(value, str) else "a number")


def _file_faults(file: str) -> list[str]:
    if file == STDIN:
        return ["no file given, and nothing is piped in"] if sys.stdin.isatty() else []
    if not Path(file).exists():
        return [f"{file}: no such file"]
    return [f"{file}: a folder, not a file"] if Path(file).is_dir() else []


def _shown(file: str) -> str:
    return "standard input" if file == STDIN else file


@contextmanager
def _open(file: str) -> Iterator[BinaryIO]:
    if file == STDIN:
        yield sys.stdin.buffer
        return
    try:
        with Path(file).open("rb") as stream:
            yield stream
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from error
