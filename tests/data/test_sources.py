"""Data files: splits, faults by file and row, where the data root is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cl_bench.data.sources import (
    BINARY,
    PROMPT_ANSWER,
    TEXT,
    json_splits,
    read_json,
    read_jsonl,
    resolve_data_root,
    text_dataset,
)
from cl_bench.errors import UserError

GOOD = [{"prompt": "Q", "answer": "A"}]


def write(folder: Path, **splits: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, content in splits.items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (folder / f"{split}.json").write_text(text, encoding="utf-8")
    return folder


def faults(call, *arguments, **options) -> list[str]:
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    return error.value.faults


def test_splits_are_read_as_they_are(tmp_path):
    rows = [{"prompt": "态度：", "answer": " [1, 2] "}, {"prompt": "", "answer": ""}]
    write(tmp_path / "trace" / "X", train=rows, eval=GOOD, test=GOOD)
    splits = json_splits(folder="trace/X", data_root=tmp_path, version=1.0, other="ignored")
    assert splits["train"].to_list() == rows
    assert set(splits) == {"train", "eval", "test"}


def test_a_missing_answer_is_empty_and_other_fields_are_dropped(tmp_path):
    write(tmp_path / "x", train=[{"prompt": "Q", "id": 3}], test=GOOD)
    splits = json_splits(folder="x", data_root=str(tmp_path))
    assert splits["train"].to_list() == [{"prompt": "Q", "answer": ""}]
    assert set(splits) == {"train", "test"}, "eval.json may be missing"


def test_only_the_unused_eval_split_may_be_empty(tmp_path):
    write(tmp_path / "x", train=GOOD, eval=[], test=GOOD)
    assert json_splits(folder="x", data_root=tmp_path)["eval"].column_names == ["prompt", "answer"]
    write(tmp_path / "x", train=[], test=[])
    train, test = (tmp_path / "x" / f"{split}.json" for split in ("train", "test"))
    assert faults(json_splits, folder="x", data_root=tmp_path) == [
        f"{train}: has no rows",
        f"{test}: has no rows",
    ]


def test_every_fault_of_all_files_is_named(tmp_path):
    bad = [{"answer": "A"}, {"prompt": 3, "answer": None}, "text", GOOD[0], {"prompt": "\ud83d"}]
    write(tmp_path / "x", train=json.dumps(bad), eval='[{"prompt": "a"},\n  {oops}]', test={"a": 1})
    train, evaluation, test = (tmp_path / "x" / f"{s}.json" for s in ("train", "eval", "test"))
    assert faults(json_splits, folder="x", data_root=tmp_path) == [
        f"{train}: row 1: 'prompt' is missing",
        f"{train}: row 2: 'prompt' must be a string of whole characters, found 3",
        f"{train}: row 2: 'answer' must be a string of whole characters, found null",
        f'{train}: row 3: expected an object with prompt, answer, found "text"',
        f"{train}: row 5: 'prompt' must be a string of whole characters, found \"\\ud83d\"",
        f"{evaluation}: line 2, column 4: not JSON (Expecting property name enclosed in double "
        "quotes)",
        f"{test}: expected a JSON list of rows, found an object",
    ]


def test_many_faults_are_counted(tmp_path):
    path = write(tmp_path, train=[{}] * 50) / "train.json"
    found = faults(read_json, path, PROMPT_ANSWER)
    assert len(found) == 21
    assert found[-1] == f"{path}: and 30 more faults"


def test_long_and_nested_values_are_not_printed(tmp_path):
    path = write(tmp_path, train=[{"prompt": ["a"]}, {"prompt": {"b": 1}}, {"prompt": 10**30}])
    found = faults(read_json, path / "train.json", PROMPT_ANSWER)
    assert [fault.rsplit("found ")[1] for fault in found] == ["a list", "an object", "a number"]


def test_files_that_are_not_text_are_refused(tmp_path):
    path = tmp_path / "train.json"
    path.write_bytes(b'["\xff"]')
    assert faults(read_json, path, PROMPT_ANSWER) == [f"{path}: not UTF-8 (byte 2)"]
    assert faults(read_jsonl, path, PROMPT_ANSWER) == [f"{path}: not UTF-8 (byte 2)"]


def test_missing_data_says_how_to_get_it(tmp_path):
    (missing,) = faults(json_splits, folder="trace/FOMC", data_root=tmp_path)
    assert missing.startswith(f"{tmp_path / 'trace' / 'FOMC'}: not found")
    assert "cl-bench data get trace" in missing
    assert "-o data_root=" in missing
    write(tmp_path / "trace" / "FOMC", eval=GOOD)
    found = faults(json_splits, folder="trace/FOMC", data_root=tmp_path)
    assert [fault.split(":")[0] for fault in found] == [
        str(tmp_path / "trace" / "FOMC" / f"{split}.json") for split in ("train", "test")
    ]


def test_json_lines(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"q": "a\u2028b", "label": 1}\r\n\n{"q": "c", "label": true}\n{"q"\n[]\n')
    fields = {"q": TEXT, "label": BINARY}
    assert faults(read_jsonl, path, fields) == [
        f"{path}: line 3: 'label' must be 0 or 1, found true",
        f"{path}: line 4: not JSON (column 5: Expecting ':' delimiter)",
        f"{path}: line 5: expected an object with q, label, found a list",
    ]
    path.write_text('{"q": "a\u2028b", "label": 1, "more": 2}\r\n\n')
    rows = read_jsonl(path, fields)
    assert rows == [{"q": "a\u2028b", "label": 1}]
    assert text_dataset(rows, fields).to_list() == rows


def test_the_data_root_is_the_argument_else_the_environment_else_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CL_BENCH_DATA_ROOT", raising=False)
    assert resolve_data_root(None) == tmp_path / "cache" / "data"
    monkeypatch.setenv("CL_BENCH_DATA_ROOT", str(tmp_path / "env"))
    assert resolve_data_root(None) == tmp_path / "env"
    monkeypatch.chdir(tmp_path)
    assert resolve_data_root("../x") == tmp_path.parent / "x"
    assert resolve_data_root("~/x") == Path.home() / "x"
