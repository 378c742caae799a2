"""Reading strictly: whatever the bytes, rows or a UserError that says where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.corpora.checksums import examples_digest
from cl_bench.corpora.rows import MAX_FIELD, Row, parse_rows, read_json_lines, read_rows, text_fault
from cl_bench.errors import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ROWS = st.lists(st.tuples(TEXT.filter(bool), TEXT), min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["prompt", "answer", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def faults_of(content: bytes | str) -> list[str]:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    with pytest.raises(UserError) as refusal:
        parse_rows(data, "f.json")
    return refusal.value.faults


@given(ROWS, st.sampled_from([None, 2]), st.booleans())
def test_any_valid_text_survives(
    rows: list[tuple[str, str]], indent: int | None, ascii_only: bool
) -> None:
    items = [{"answer": answer, "prompt": prompt, "extra": 1} for prompt, answer in rows]
    data = json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode()
    parsed = parse_rows(data, "f.json")
    assert parsed == rows
    assert parse_rows(b"\xef\xbb\xbf" + data, "f.json") == rows  # with a byte order mark
    assert examples_digest(parsed) == examples_digest(rows)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_input_gives_rows_or_a_user_error(data: bytes) -> None:
    try:
        rows = parse_rows(data, "f.json")
    except UserError as error:
        assert error.faults
        assert all(fault.startswith("f.json: ") for fault in error.faults)
    else:
        assert all(isinstance(row, Row) and text_fault(row.prompt) is None for row in rows)


@given(ROWS, st.data())
def test_a_digest_notices_every_change(rows: list[tuple[str, str]], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(rows) - 1))
    prompt, answer = rows[at]
    assert examples_digest([*rows[:at], (prompt + "x", answer), *rows[at + 1 :]]) != (
        examples_digest(rows)
    )
    assert examples_digest(rows[:at] + rows[at + 1 :]) != examples_digest(rows)
    assert examples_digest([(prompt + answer, "")]) != examples_digest([("", prompt + answer)])


def test_every_fault_is_told_with_its_row_and_field() -> None:
    rows = [
        {"prompt": "p", "answer": "a"},
        {"prompt": 1, "answer": "a"},
        {"prompt": "p", "answer": None},
        {"Prompt": "p", "answer": "a"},
        {"prompt": "p", "answer": True},
        "text",
        {"prompt": "p", "answer": ["a"]},
        {"prompt": "p"},
        {"prompt": "", "answer": ""},
        {"prompt": "p"},
        {"prompt": "p"},
    ]
    assert sorted(faults_of(json.dumps(rows))) == [
        "f.json: row 2: field 'prompt': a number, not a string",
        "f.json: row 3: field 'answer': null, not a string",
        "f.json: row 4: field 'prompt': missing (did you mean 'Prompt'?)",
        "f.json: row 5: field 'answer': true/false, not a string",
        "f.json: row 6: a string, not an object with prompt and answer",
        "f.json: row 7: field 'answer': a list, not a string",
        "f.json: row 8, 10-11: field 'answer': missing",
        "f.json: row 9: field 'prompt': empty",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[\n{"prompt": "\xff', "f.json: byte 14 (line 2) is not UTF-8: 0xff"),
        (b'[{"prompt": "p",\n}]', "f.json: line 2 column 1: not JSON"),
        (b"", "f.json: line 1 column 1: not JSON"),
        (b"[]", "f.json: no examples"),
        (b'{"prompt": "p"}', "f.json: an object, not a list of examples"),
        (b"[" * 100_000, "f.json: not JSON that can be read"),
        (b'[{"prompt": "p", "answer": ' + b"9" * 5000 + b"}]", "f.json: not JSON that can be"),
        (b'[{"prompt": "a\\ud800", "answer": ""}]', "lone surrogate at character 1"),
    ],
)
def test_what_is_no_trace_file(content: bytes, said: str) -> None:
    (fault,) = faults_of(content)
    assert said in fault


def test_a_10_megabyte_text_is_refused() -> None:
    (fault,) = faults_of(json.dumps([{"prompt": "x" * 10 * 2**20, "answer": "a"}]))
    assert fault == (
        f"f.json: row 1: field 'prompt': 10,485,760 characters, more than the {MAX_FIELD:,} allowed"
    )


def test_json_lines_tell_line_and_field(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    good = b'{"goal": "g"}'
    lines = [good, b"", b'{"goal": 3}', b"{", b'{"goal": "' + b"x" * 10 * 2**20 + b'"}']
    path.write_bytes(b"\n".join([*lines, b'{"goal": "\xc3"}', b"[]", b'{"gaol": 1}', good, b""]))
    with pytest.raises(UserError) as refusal:
        read_json_lines(path, {"goal": text_fault})
    faults = [fault.removeprefix(f"{path}: ") for fault in refusal.value.faults]
    assert [fault.split(": ")[0] for fault in faults] == [
        "line 4", "line 5", "line 6", "line 3", "line 7", "line 8",
    ]  # fmt: skip
    assert faults[1] == "line 5: 10,485,772 bytes, limit 4,194,304"
    assert faults[3] == "line 3: field 'goal': a number, not a string"
    assert faults[5] == "line 8: field 'goal': missing (did you mean 'gaol'?)"


def test_unreadable_files_are_faults(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_rows(tmp_path / "absent.json")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_rows(tmp_path)
