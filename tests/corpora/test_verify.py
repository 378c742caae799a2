"""`data verify`: what is right is recognised, what is wrong is told, all of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cl_bench.corpora.registry import FOLDERS
from cl_bench.corpora.verify import Verification, verify
from cl_bench.errors import UserError
from tests.corpora.conftest import write_rows


@pytest.fixture
def fomc(shared_dir: Path, tmp_path: Path) -> Path:
    """A data root with one real task, to be damaged."""
    source = shared_dir / "data" / "trace" / "FOMC"
    return Path(shutil.copytree(source, tmp_path / "trace" / "FOMC", copy_function=shutil.copyfile))


def verdicts(result: Verification) -> dict[str, str]:
    return {one.file.rpartition("/")[2]: one.verdict for one in result.files}


def test_the_collected_data(shared_dir: Path) -> None:
    result = verify(shared_dir / "data")
    assert (result.faults, result.notes) == ([], [])
    assert result.tasks == {
        "C-STANCE": "5000",
        "FOMC": "5000",
        "MeetingBank": "mixed: train rebuilt, eval 500, test 500",
        "Py150": "mixed: train 1000, eval 500, test 500",
        "ScienceQA": "1000",
        "NumGLUE-cm": "5000",
        "NumGLUE-ds": "5000",
        "20Minuten": "1000",
    }
    assert {one.verdict for one in result.files} == {"exact", "rebuilt"}
    assert len(result.files) == 24 + 13
    assert result.as_json()["ok"] is True
    assert json.loads(json.dumps(result.as_json()))["tasks"]["FOMC"] == "5000"


def test_a_folder_of_tasks_will_do(shared_dir: Path) -> None:
    result = verify(shared_dir / "data" / "trace_500")
    assert result.faults == []
    assert [result.tasks[task] for task in FOLDERS if task != "MeetingBank"] == ["500"] * 7


def test_the_same_examples_written_differently(fomc: Path) -> None:
    path = fomc / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1, sort_keys=True))
    result = verify(fomc.parents[1])
    assert result.faults == []
    assert verdicts(result)["train.json"] == "same examples"
    assert result.tasks["FOMC"] == "5000"
    assert result.tasks["Py150"] == "absent"


def test_one_changed_letter_is_found(fomc: Path) -> None:
    rows = json.loads((fomc / "test.json").read_text())
    rows[7]["prompt"] += "."
    (fomc / "test.json").write_text(json.dumps(rows))
    result = verify(fomc.parents[1])
    assert result.faults == [
        f"{fomc}/test.json: 496 rows, as many as variant 5000/1000, but not its examples"
    ]
    assert result.tasks["FOMC"] == "faulty"
    assert result.as_json()["ok"] is False


def test_a_lost_row_is_found(fomc: Path) -> None:
    rows = json.loads((fomc / "train.json").read_text())
    (fomc / "train.json").write_text(json.dumps(rows[1:]))
    assert verify(fomc.parents[1]).faults == [
        f"{fomc}/train.json: 4,999 rows, known sizes: 5,000 (5000), 1,000 (1000), 500 (500)"
    ]


def test_every_fault_of_every_file_is_listed(fomc: Path) -> None:
    (fomc / "train.json").write_text('[{"prompt": 1}, {"prompt": "p", "answer": "A"}]')
    (fomc / "eval.json").unlink()
    (fomc / "test.json").unlink()
    (fomc.parent / "MeetingBnak").mkdir()
    (fomc.parent / "Py150").mkdir()
    (fomc.parent / "Py150" / "test.json").write_bytes(b"[\xff]")
    result = verify(fomc.parents[1])
    assert sorted(fault.removeprefix(str(fomc.parent)) for fault in result.faults) == [
        "/FOMC/test.json: missing",
        "/FOMC/train.json: row 1: field 'answer': missing (the row has prompt)",
        "/FOMC/train.json: row 1: field 'prompt': a number, not a string",
        "/MeetingBnak: not a task of TRACE (did you mean 'MeetingBank'?)",
        "/Py150/test.json: byte 1 (line 1) is not UTF-8: 0xff; save it as UTF-8",
        "/Py150/train.json: missing",
    ]
    assert result.tasks["FOMC"] == "faulty"
    assert all("eval.json: missing; nothing trains" in note for note in result.notes)


def test_a_version_nobody_has_read_is_not_called_faulty(fomc: Path) -> None:
    bank = fomc.parent / "MeetingBank"
    write_rows(bank / "train.json", [(f"{n}?", "a") for n in range(5000)])
    write_rows(bank / "test.json", [(f"{n}?", "a") for n in range(692)])
    result = verify(fomc.parents[1])
    assert result.faults == []
    assert result.tasks["MeetingBank"] == "5000"
    told = [note for note in result.notes if "could not be compared" in note]
    assert len(told) == 2
    assert "variant 5000/1000" in told[1]  # nobody states the size of 1000's test split


def test_an_unfinished_download_is_noted(fomc: Path) -> None:
    (fomc / "train.json.abc.part").write_bytes(b"[")
    (note,) = verify(fomc.parents[1]).notes
    assert "unfinished download" in note


def test_general_sets(shared_dir: Path, tmp_path: Path) -> None:
    general = tmp_path / "general"
    source = shared_dir / "data" / "general"
    for name in ("gsm8k/test.jsonl", "piqa/test.jsonl", "boolq/test.jsonl", "mmlu/val.jsonl"):
        (general / name).parent.mkdir(parents=True)
        shutil.copyfile(source / name, general / name)
    assert verify(tmp_path).faults == []

    lines = (general / "gsm8k/test.jsonl").read_bytes().splitlines(keepends=True)
    (general / "gsm8k/test.jsonl").write_bytes(b"".join(lines[:-1]))
    (general / "gsm8k/extra.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n')
    (general / "mmlu/val.jsonl").write_bytes((source / "mmlu/val.jsonl").read_bytes() + b"\n")
    rows = [
        {"goal": "g", "sol1": "1", "sol2": "2", "label": label} for label in (0, 1, 2, "1", True)
    ]
    (general / "piqa/test.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (general / "gsm8q").mkdir()
    result = verify(tmp_path)
    assert [fault.removeprefix(str(general)) for fault in result.faults] == [
        "/gsm8k/test.jsonl: 1,318 rows, known size: 1,319",
        "/gsm8q: not a general set (did you mean 'gsm8k'?)",
        "/piqa/test.jsonl: line 3-5: field 'label': not one of 0, 1",
    ]
    assert [note.removeprefix(str(general)) for note in result.notes] == [
        "/gsm8k/extra.jsonl: 1 rows; no size or checksum is known for this split",
        "/mmlu/val.jsonl: the known 1,531 rows, but other bytes",
    ]


def test_fields_of_the_general_sets_are_checked(tmp_path: Path) -> None:
    bad = {
        "bbh": {"task": "t", "input": "i", "target": None},
        "gsm8k": {"question": "q", "answer": "no mark"},
        "tydiqa": {
            **dict.fromkeys(("id", "title", "language", "question", "context"), "x"),
            "answers": [{"text": 1}],
        },
        "mmlu": {**dict.fromkeys(("subject", "question", *"ABCD"), "x"), "answer": "E"},
        "boolq": {"question": "q", "passage": "p", "label": True},
    }
    for name, row in bad.items():
        (tmp_path / "general" / name).mkdir(parents=True)
        (tmp_path / "general" / name / "test.jsonl").write_text(json.dumps(row))
    faults = {fault.split("/general/")[1] for fault in verify(tmp_path).faults}
    assert faults == {
        "bbh/test.jsonl: line 1: field 'target': null, not a string",
        "gsm8k/test.jsonl: line 1: field 'answer': no final answer after '#### '",
        "tydiqa/test.jsonl: line 1: field 'answers.0.text': a number, not a string",
        "mmlu/test.jsonl: line 1: field 'answer': not one of 'A', 'B', 'C', 'D'",
        "boolq/test.jsonl: line 1: field 'label': not one of 'true', 'false'",
    }


def test_a_folder_without_data_is_the_users_fault(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither trace"):
        verify(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        verify(tmp_path / "absent")
