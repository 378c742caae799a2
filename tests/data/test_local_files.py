"""Files that a task's own YAML names: beside the YAML, read as they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cl_bench.data.loading import load_task_set
from cl_bench.errors import UserError
from tests.helpers.own_task import own_task

Rows = list[dict[str, Any]]


def load(folder: Path) -> Any:
    return load_task_set(["mine"], task_paths=[str(folder)], require_training=["mine"]).tasks[
        "mine"
    ]


def refused(folder: Path) -> list[str]:
    with pytest.raises(UserError) as error:
        load(folder)
    return error.value.faults


@pytest.mark.parametrize("answer", ["2020-01-01", "12:30", "01", "1e5", "true", "null", "[1, 2]"])
def test_a_text_stays_a_text(tmp_path: Path, answer: str) -> None:
    rows = [{"prompt": f"Q{i}", "answer": answer} for i in range(3)]
    task = load(own_task(tmp_path / "tasks", rows))
    assert list(task.training_docs()["answer"]) == [answer] * 3
    assert task.doc_to_target(task.eval_docs[0]) == answer


def test_a_relative_file_is_the_one_beside_the_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own_task(tmp_path / "tasks", [{"prompt": "Q", "answer": "mine"}])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "rows.jsonl").write_text('{"prompt": "Q", "answer": "other"}\n')
    for where in (tmp_path, folder, elsewhere):
        monkeypatch.chdir(where)
        assert list(load(folder).training_docs()["answer"]) == ["mine"]
    (folder / "rows.jsonl").unlink()
    (fault,) = refused(folder)
    assert f"{folder / 'rows.jsonl'}: not found" in fault


def test_a_member_of_a_group_and_a_task_without_a_test_split_are_found_too(tmp_path: Path) -> None:
    folder = own_task(tmp_path / "tasks", [{"prompt": "Q", "answer": "a"}])
    (folder / "both.yaml").write_text("group: both\ntask: [mine]\n")
    assert list(load_task_set(["both"], task_paths=[str(folder)]).tasks) == ["mine"]
    own_task(folder, [{"prompt": "Q", "answer": "a"}], test_split=None)
    suite = load_task_set(
        ["mine"], task_paths=[str(folder)], require_training=["mine"], train_only=["mine"]
    )
    assert len(suite.tasks["mine"].training_docs()) == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"prompt": "Q", "answer": "a"}, {"prompt": "Q", "answer": 7}],
            "line 2: 'answer' is a number",
        ),
        ([{"prompt": "Q", "answer": True}, {"prompt": "Q", "answer": "x"}], "'answer' is a string"),
        ([{"prompt": "Q", "answer": "a"}, ["Q", "a"]], "line 2: a list, not an object"),
        ([], "rows.jsonl: no rows"),
        ([{"prompt": "Q"}, {"more": {"\0": None, "": []}}], "line 2: 'more': Unsupported cast"),
    ],
)
def test_rows_of_several_kinds_are_refused(tmp_path: Path, rows: Any, said: str) -> None:
    (fault,) = refused(own_task(tmp_path / "tasks", rows))
    assert said in fault and "rows.jsonl" in fault


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Q", "answer": None}, "its target is null, not a text"),
        ({"prompt": "Q"}, "its target is null, not a text"),
        ({"prompt": "Q", "answer": {"x": 1}}, "its target is an object, not a text"),
        ({"prompt": "Q", "answer": True}, "its target is true/false, not a text"),
        ({"prompt": None, "answer": "a"}, "its prompt ('prompt') is null, not a text"),
    ],
)
def test_what_is_no_text_is_no_example(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    from cl_bench.data.examples import training_examples

    good = {"prompt": "Q", "answer": row["answer"]} if "answer" in row else dict(row)
    task = load(own_task(tmp_path / "tasks", [good | {"answer": row.get("answer")}, row]))
    with pytest.raises(UserError) as error:
        training_examples(task, None, 0)
    assert f"mine: training document 1: {said}" in error.value.faults


def test_numbers_are_trained_as_the_file_writes_them(tmp_path: Path) -> None:
    from cl_bench.data.examples import training_examples

    task = load(own_task(tmp_path / "tasks", [{"prompt": "Q", "answer": 7}] * 2))
    assert [example.answer for example in training_examples(task, None, 0)] == ["7", "7"]


def test_the_cause_of_a_dataset_error_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_: Any) -> None:
        raise ValueError("An error occurred while generating the dataset") from KeyError("label")

    monkeypatch.setattr("lm_eval.api.task.datasets.load_dataset", fails)
    (fault,) = refused(own_task(tmp_path / "tasks", [], dataset_path="some/hub_set"))
    assert "An error occurred while generating the dataset; caused by KeyError: 'label'" in fault
