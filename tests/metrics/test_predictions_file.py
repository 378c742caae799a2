"""`cl-bench score`: reading predictions, every fault of a file, the command's output."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cl_bench.commands.score import score
from cl_bench.errors import UserError
from cl_bench.results.predictions import MAX_FAULTS, read_predictions, score_file

app = typer.Typer()
app.command()(score)
runner = CliRunner()

GOOD = b'{"prediction": "A", "reference": "B"}'


def faults_of(content: bytes, needs_input: bool = False) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_predictions(io.BytesIO(content), "F", needs_input=needs_input)
    return caught.value.faults


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_reads_lines() -> None:
    content = (
        b"\xef\xbb\xbf" + GOOD + b'\r\n\n{"reference": "\xe6\x96\x87", "prediction": "", "x": 1}'
    )
    data = read_predictions(io.BytesIO(content), "F", needs_input=False)
    assert (data.predictions, data.references, data.sources) == (("A", ""), ("B", "文"), None)
    with_input = b'{"prediction": "A", "reference": "B", "input": "C"}\n'
    assert read_predictions(io.BytesIO(with_input), "F", needs_input=True).sources == ("C",)


def test_every_fault_is_listed_with_line_and_field() -> None:
    content = b"\n".join(
        [
            GOOD,
            b'{"predictions": "A"}',
            b'{"prediction": 1, "reference": null}',
            b'{"prediction": ["A"], "reference": {}}',
            b"A",
            b"[1]",
            b'{"prediction": "\xff", "reference": "B"}',
            b"\xff\xfe",
            b'{"prediction": "A", "reference": "B", "other": "\xff"}',
            b"[" * 100_000,
            b'{"prediction": true, "reference": 2.5}',
        ]
    )
    found = faults_of(content)
    assert found[:6] == [
        "F:2: prediction: missing (the line has predictions)",
        "F:2: reference: missing (the line has predictions)",
        "F:3: prediction: a string is needed, not a number",
        "F:3: reference: a string is needed, not null",
        "F:4: prediction: a string is needed, not a list",
        "F:4: reference: a string is needed, not an object",
    ]
    assert found[6].startswith("F:5: not JSON: ")
    assert found[7:11] == [
        "F:6: an object is needed, not a list",
        "F:7: prediction: not UTF-8",
        "F:8: not UTF-8 from byte 1 on",
        "F:9: not UTF-8 from byte 49 on",
    ]
    assert found[11].startswith("F:10: not JSON: ")
    assert found[12:] == [
        "F:11: prediction: a string is needed, not true or false",
        "F:11: reference: a string is needed, not a number",
    ]


def test_a_ten_megabyte_line() -> None:
    line = json.dumps({"prediction": "x" * 10_000_000, "reference": "B"}).encode()
    assert faults_of(GOOD + b"\n" + line + b"\n{}")[0] == (
        "F:2: prediction: 10,000,000 characters; at most 1,000,000 are read"
    )


def test_a_line_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl_bench.results.predictions.MAX_LINE_BYTES", 1 << 20)
    assert faults_of(b"x" * (5 << 20) + b"\n{}")[0] == "F:1: over 1 MB in one line"
    assert faults_of(b"x" * (5 << 20) + b"\n[]")[1] == "F:2: an object is needed, not a list"


def test_files_of_our_own_runs_are_read() -> None:
    line = b'{"doc_id": 0, "prompt_hash": "x", "target": "A", "score": 1.0, "prediction": "B"}\n'
    data = read_predictions(io.BytesIO(line), "F", needs_input=False)
    assert (data.predictions, data.references) == (("B",), ("A",))


def test_a_document_that_a_run_of_ours_could_not_measure_is_no_answer() -> None:
    line = {"prompt_hash": "x", "target": "A", "prediction": "!", "not_measured": "no numbers"}
    assert faults_of(jsonl([line]).encode()) == ["F:1: not measured: no numbers"]


def test_many_faults_are_counted() -> None:
    assert faults_of(b"[]\n" * 3 + b"{}\n[]\n")[0] == "F:1-3, 5: an object is needed, not a list"
    columns = (b'{"x%d": 1}\n' % i for i in range(MAX_FAULTS // 2 + 5))
    found = faults_of(b"".join(columns))
    assert len(found) == MAX_FAULTS + 1 and found[-1] == "F: and 10 more faults"


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_no_predictions(content: bytes) -> None:
    assert faults_of(content) == ["F: no predictions"]


def test_missing_input() -> None:
    assert faults_of(GOOD, needs_input=True) == [
        "F:1: input: missing (the line has prediction, reference)"
    ]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        read_predictions(io.BytesIO(content), "F", needs_input=False)
    except UserError as error:
        assert error.faults


def test_faults_of_the_arguments_come_together(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        score_file("trace_fomk", str(tmp_path / "none.jsonl"), "diflib")
    assert caught.value.faults == [
        "--task: unknown TRACE task 'trace_fomk' (did you mean 'trace_fomc'?)",
        "--similarity-backend: unknown backend 'diflib' (did you mean 'difflib'?)",
        f"{tmp_path / 'none.jsonl'}: no such file",
    ]
    with pytest.raises(UserError, match="a folder, not a file"):
        score_file("FOMC", str(tmp_path))


def test_the_command_on_a_file_and_a_pipe(shared_dir: Path, tmp_path: Path) -> None:
    golden = json.loads((shared_dir / "golden" / "20Minuten.json").read_text(encoding="utf-8"))
    case = next(case for case in golden["cases"] if case["name"] == "first5")
    columns = zip(case["predictions"], case["references"], case["inputs"], strict=True)
    text = jsonl([{"prediction": p, "reference": r, "input": s} for p, r, s in columns])
    file = tmp_path / "predictions.jsonl"
    file.write_text(text, encoding="utf-8")
    from_file = runner.invoke(app, ["--task", "trace_20minuten", str(file)])
    from_pipe = runner.invoke(app, ["--task", "20Minuten", "-"], input=text)
    assert from_file.exit_code == from_pipe.exit_code == 0
    assert from_file.stdout == from_pipe.stdout
    result = json.loads(from_file.stdout)
    assert list(result)[:4] == ["task", "n", "n_unscorable", "score"]
    assert (result["task"], result["n"], result["n_unscorable"]) == ("trace_20minuten", 5, 0)
    assert result["score"] == pytest.approx(case["expected"]["sari"] / 100, abs=1e-9)
    assert result["metrics"] == pytest.approx(case["expected"], abs=1e-9)
    assert "rouge_score_rougeL" in result["modern"]


def test_the_command_names_the_backend() -> None:
    text = jsonl([{"prediction": "x = 1 ; " * 40, "reference": " x = 1 ;" * 40}])
    arguments = ["--task", "Py150", "--similarity-backend", "levenshtein"]
    strict = json.loads(runner.invoke(app, arguments, input=text).stdout)
    default = json.loads(runner.invoke(app, arguments[:2], input=text).stdout)
    assert strict["similarity_backend"] == "levenshtein" and strict["score"] > 0.9
    assert default["similarity_backend"] == "difflib" and default["score"] < 0.1


def test_the_command_refuses(tmp_path: Path) -> None:
    result = runner.invoke(app, ["--task", "FOMC"], input="{}\n")
    assert isinstance(result.exception, UserError)
    assert result.exception.faults[0].startswith("standard input:1: prediction: missing")


def test_real_answers_score_full_marks(shared_dir: Path, tmp_path: Path) -> None:
    """Every real test answer against itself, through the whole path."""
    for name, task in [("MeetingBank", "trace_meetingbank"), ("NumGLUE-ds", "trace_numglue_ds")]:
        rows = json.loads((shared_dir / "data" / "trace" / name / "test.json").read_text("utf-8"))
        file = tmp_path / f"{name}.jsonl"
        lines = [{"prediction": row["answer"], "reference": row["answer"]} for row in rows]
        file.write_text(jsonl(lines), encoding="utf-8")
        result = score_file(task, str(file))
        assert result.n == len(rows) and result.score == pytest.approx(1, abs=1e-8)
