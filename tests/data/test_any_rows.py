"""Whatever a data file holds: rows, or faults with the file and where there is one the line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl_bench.data.local_files import json_files
from cl_bench.data.rows import PiqaRow, RowModel, TraceRow, TydiqaRow, read_rows
from cl_bench.data.table_files import csv_faults, unreadable
from cl_bench.errors import UserError
from cl_bench.results.predictions import read_predictions

in_one_folder = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.just("\ud800"),
    st.just("9" * 5000),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)
GOOD: dict[type[RowModel], dict[str, Any]] = {
    TraceRow: {"prompt": "p", "answer": "a"},
    PiqaRow: {"goal": "g", "sol1": "x", "sol2": "y", "label": 1},
    TydiqaRow: {
        **{"id": "1", "title": "t", "language": "english", "context": "c", "question": "q"},
        "answers": [{"text": "a"}],
    },
}


def told(error: UserError, file: Path, lines: int | None = None) -> None:
    """Every fault names the file; a line or a row that it names is one of the file's."""
    assert error.faults
    for fault in error.faults:
        assert str(file) in fault, fault
        for number in re.findall(r": (?:line|row) (\d+)", fault):
            assert 1 <= int(number) <= (lines or 10**9), fault


@in_one_folder
@given(st.one_of(st.binary(max_size=80), st.text(max_size=40).map(lambda t: t.encode("utf-8"))))
@pytest.mark.parametrize("model", GOOD)
def test_any_bytes(tmp_path: Path, model: type[RowModel], content: bytes) -> None:
    file = tmp_path / "rows.json"
    file.write_bytes(content)
    try:
        assert all(isinstance(row, model) for row in read_rows(file, model))
    except UserError as error:
        told(error, file, content.count(b"\n") + 1)
    try:
        json_files(data_files={"train": str(file)})
    except UserError as error:
        told(error, file, content.count(b"\n") + 1)


@in_one_folder
@given(st.data())
@pytest.mark.parametrize("model", GOOD)
def test_good_rows_with_changes(tmp_path: Path, model: type[RowModel], data: st.DataObject) -> None:
    """A row that was changed is told by its number, or it is as good as before."""
    rows = [dict(GOOD[model]) for _ in range(4)]
    number = data.draw(st.integers(0, 3))
    key = data.draw(st.sampled_from([*GOOD[model], "more"]))
    if data.draw(st.booleans()):
        rows[number].pop(key, None)
    else:
        rows[number][key] = data.draw(values)
    file, lines = tmp_path / "rows.json", data.draw(st.booleans())
    text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)
    file.write_text(text)
    try:
        found = read_rows(file, model)
    except UserError as error:
        told(error, file, 4)
        at = f"{'line' if lines else 'row'} {number + 1}"
        assert any(at in fault for fault in error.faults) or "not JSON" in str(error)
    else:
        assert len(found) == 4 and found[number - 1] == model.model_validate(GOOD[model])
    try:
        splits = json_files(data_files={"train": str(file)})
        assert len(splits["train"]) == 4
    except UserError as error:
        told(error, file, 4)


@in_one_folder
@given(st.data())
def test_a_good_file_with_bytes_changed(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "rows.jsonl"
    content = bytearray(b"".join(json.dumps(GOOD[TraceRow]).encode() + b"\n" for _ in range(3)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    file.write_bytes(content)
    try:
        read_rows(file, TraceRow)
    except UserError as error:
        told(error, file, 7)
    with file.open("rb") as stream:
        try:
            read_predictions(stream, str(file), needs_input=False)
        except UserError as error:
            assert all(fault.startswith(f"{file}:") for fault in error.faults)


@in_one_folder
@given(st.one_of(st.binary(max_size=60), st.text('a,"\n\r;\0é', max_size=40).map(str.encode)))
def test_any_tables(tmp_path: Path, content: bytes) -> None:
    for kind in ("csv", "parquet", "arrow", "text"):
        file = tmp_path / f"rows.{kind}"
        file.write_bytes(content)
        faults = unreadable(kind, [file])
        if kind == "csv":
            faults += csv_faults([file], {})
        if kind in ("parquet", "arrow"):
            assert faults
        assert all(str(file) in fault for fault in faults)


def test_a_good_table_has_no_faults(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table({"prompt": ["a", "b"], "answer": ["c", "d"]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pa.ipc.new_stream(str(tmp_path / "stream.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "rows.csv").write_text('prompt,answer\r\n"a\nb",c\r\nd,"e,""f"""\r\n')
    assert not csv_faults([tmp_path / "rows.csv"], {})
    assert not csv_faults([tmp_path / "rows.csv"], {"skiprows": 1})  # pandas is told how
    assert not unreadable("parquet", [tmp_path / "rows.parquet"])
    assert not unreadable("arrow", [tmp_path / "stream.arrow", tmp_path / "file.arrow"])
    assert not unreadable("text", [tmp_path / "rows.csv"])
