"""Data files: splits, faults by file and row, where the data root is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cl_bench.data.sources import json_splits, resolve_data_root
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


def test_other_fields_are_dropped_and_lines_are_read_whatever_the_ending(tmp_path):
    folder = write(tmp_path / "x", train=[{"prompt": "Q", "answer": "A", "id": 3}])
    (folder / "test.jsonl").write_text('\ufeff{"prompt": "Q", "answer": "2020-01-01"}\n')
    splits = json_splits(folder="x", data_root=str(tmp_path))
    assert splits["train"].to_list() == [{"prompt": "Q", "answer": "A"}]
    assert splits["test"].to_list() == [{"prompt": "Q", "answer": "2020-01-01"}]
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
    bad = [{"answer": "A"}, {"prompt": 3, "answer": None}, "text", GOOD[0]]
    write(tmp_path / "x", train=bad, eval='[{"prompt": "a"},\n  {oops}]', test='{"a":\n 1}')
    train, evaluation, test = (tmp_path / "x" / f"{s}.json" for s in ("train", "eval", "test"))
    assert faults(json_splits, folder="x", data_root=tmp_path) == [
        f"{train}: row 1: field 'prompt': missing (the row has answer)",
        f"{train}: row 2: field 'prompt': a number, not a string",
        f"{train}: row 2: field 'answer': null, not a string",
        f"{train}: row 3: a string, not an object with prompt, answer",
        f"{evaluation}: line 2, column 4: not JSON (Expecting property name enclosed in double "
        "quotes)",
        f"{test}: one object (with a), not a list of rows",
    ]


def test_many_faults_are_counted(tmp_path):
    rows = [{"prompt": "p", "answer": str(i) * 2 if i % 2 else i} for i in range(4)]
    many = [{"prompt": "p", f"x{i}": 1} for i in range(50)]
    path = write(tmp_path / "x", train=[*many, *rows], test=GOOD) / "train.json"
    found = faults(json_splits, folder="x", data_root=tmp_path)
    assert len(found) <= 21 and all(fault.startswith(str(path)) for fault in found)


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


def test_the_data_root_is_the_argument_else_the_environment_else_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CL_BENCH_DATA_ROOT", raising=False)
    assert resolve_data_root(None) == tmp_path / "cache" / "data"
    monkeypatch.setenv("CL_BENCH_DATA_ROOT", str(tmp_path / "env"))
    assert resolve_data_root(None) == tmp_path / "env"
    monkeypatch.chdir(tmp_path)
    assert resolve_data_root("../x") == tmp_path.parent / "x"
    assert resolve_data_root("~/x") == Path.home() / "x"
