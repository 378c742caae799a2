"""Reading strictly: whatever the bytes, rows or a UserError that says where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.corpora.checksums import examples_digest
from cl_bench.data.rows import MAX_FIELD, PiqaRow, Row, parse_trace, read_rows, trace_rows
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
        parse_trace(data, "f.json")
    return refusal.value.faults


@given(ROWS, st.sampled_from([None, 2]), st.booleans())
def test_any_valid_text_survives(
    rows: list[tuple[str, str]], indent: int | None, ascii_only: bool
) -> None:
    items = [{"answer": answer, "prompt": prompt, "extra": 1} for prompt, answer in rows]
    data = json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode()
    parsed = parse_trace(data, "f.json")
    assert parsed == rows
    assert parse_trace(b"\xef\xbb\xbf" + data, "f.json") == rows  # with a byte order mark
    assert examples_digest(parsed) == examples_digest(rows)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_input_gives_rows_or_a_user_error(data: bytes) -> None:
    try:
        rows = parse_trace(data, "f.json")
    except UserError as error:
        assert error.faults
        assert all(fault.startswith("f.json: ") for fault in error.faults)
    else:
        assert all(isinstance(row, Row) and row.prompt.encode() is not None for row in rows)


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
        "f.json: row 6: a string, not an object with prompt, answer",
        "f.json: row 7: field 'answer': a list, not a string",
        "f.json: row 8, 10-11: field 'answer': missing (the row has prompt)",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[\n{"prompt": "\xff', "f.json: byte 14 (line 2) is not UTF-8: 0xff; save it as UTF-8"),
        (b'[{"prompt": "p",\n}]', "f.json: line 2, column 1: not JSON"),
        (b"", "f.json: no examples"),
        (b"[]", "f.json: no examples"),
        (b"7", "f.json: a number, not a list of rows or one object a line"),
        (b'{"data": [\n]}', "f.json: one object (with data), not a list of rows"),
        ("[]".encode("utf-16"), "f.json: UTF-16; save it as UTF-8"),
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
    good = b'{"goal": "g", "sol1": "a", "sol2": "b", "label": 1}'
    wrong = [good.replace(b'"g"', b"3"), b"{", b'{"goal": "' + b"x" * 10 * 2**20 + b'"}', b"[]"]
    wrong += [
        good.replace(b"goal", b"gaol"),
        good.replace(b'"a"', b'""'),
        good.replace(b"1}", b"2}"),
    ]
    wrong += [good.replace(b"1}", b"true}"), b"[" * 100_000]
    path.write_bytes(b"\n".join([good, b"", *wrong, good, b""]))
    with pytest.raises(UserError) as refusal:
        read_rows(path, PiqaRow)
    faults = {fault.removeprefix(f"{path}: ") for fault in refusal.value.faults}
    assert faults == {
        "line 3: field 'goal': a number, not a string",
        "line 4: not JSON (column 2: Expecting property name enclosed in double quotes)",
        "line 5: 10,485,772 characters, limit 4,194,304",
        "line 6: a list, not an object with goal, sol1, sol2, label",
        "line 7: field 'goal': missing (did you mean 'gaol'?)",
        "line 8: field 'sol1': empty",
        "line 9-10: field 'label': not one of 0, 1",
        "line 11: not JSON that can be read "
        "(maximum recursion depth exceeded while decoding a JSON array from a unicode string)",
    }
    path.write_text('\ufeff{"goal": "a\u2028b", "sol1": "a", "sol2": "b", "label": 0}\r\n')
    assert [row.goal for row in read_rows(path, PiqaRow)] == ["a\u2028b"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_lines_and_lists_are_the_same_rows(mark: bytes) -> None:
    rows = [{"prompt": "p", "answer": "a"}, {"prompt": "", "answer": "[1]", "id": 3}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    expected = [("p", "a"), ("", "[1]")]
    assert parse_trace(mark + lines, "f") == parse_trace(mark + json.dumps(rows).encode(), "f")
    assert parse_trace(mark + lines, "f") == expected
    assert parse_trace(mark + lines[: lines.index(b"\n")], "f") == expected[:1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"instruction": "i", "input": "", "output": "o"},
            "(the row has instruction, input, output)",
        ),
        ({"messages": []}, "(the row has messages)"),
        ({"Prompt": "p", "answer": "a"}, "(did you mean 'Prompt'?)"),
        ({"prompt": "p", "label": "A"}, "field 'answer': missing (the row has prompt, label)"),
    ],
)
def test_other_columns_are_named_once(row: dict[str, object], said: str) -> None:
    faults = faults_of(json.dumps([row] * 30))
    assert len(faults) == 2 - ("answer" in row or "prompt" in row)
    assert said in faults[0] and faults[0].startswith("f.json: row 1-30: ")


def test_unreadable_files_are_faults(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        trace_rows(tmp_path / "absent.json")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        trace_rows(tmp_path)
