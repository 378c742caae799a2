"""GLUE and programs: files of the data root in their own form, else the Hub's rows."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from lm_eval.tasks import TaskManager

from cl_bench.data.loading import load_task_set, quiet_lm_eval
from cl_bench.data.stage_sources import glue, programs
from cl_bench.data.tasks import packaged_files
from cl_bench.errors import Absent, UserError

SENTENCES = [{"sentence": "the soup was cold ", "label": 0}, {"sentence": "a delight", "label": 1}]
PAIRS = [{"sentence1": "He ran.", "sentence2": "He walked.", "label": 0, "id1": "3"}]
INFERENCES = [
    {"sentence": "sentence 1: It rains.\nIn May.\nsentence 2: It is dry", "label": "contradiction"},
    {"sentence": "sentence 1: Ann sings.\nsentence 2: Somebody sings.", "label": "entailment"},
]
ROWS = {"sst2": SENTENCES, "cola": SENTENCES, "mrpc": PAIRS, "mnli": INFERENCES}
HUB = {"path": "owner/name"}


def write(folder: Path, **splits: list[dict[str, object]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for task, rows in ROWS.items():
        write(tmp_path / "glue" / task, train=rows, test=rows)
    return tmp_path


@pytest.mark.parametrize("task", ROWS)
def test_documents_are_asked_as_the_packaged_task_asks_them(root: Path, task: str) -> None:
    ours = load_task_set([f"glue_{task}"], root).tasks[f"glue_{task}"]
    (path,) = packaged_files([task]).values()
    overrides = {
        "custom_dataset": lambda **_: dict(ours.dataset),
        "validation_split": "test",
    }
    with quiet_lm_eval():
        manager = TaskManager(include_path=[str(path.parent)], include_defaults=False)
        entry = manager.task_index[task]
        theirs = manager._factory.build(entry, overrides=overrides, registry=manager.task_index)
    assert len(ours.eval_docs) == len(ours.dataset["train"]) == len(ROWS[task])
    for doc in ours.eval_docs:
        assert ours.doc_to_text(doc) == theirs.doc_to_text(doc)
        assert ours.doc_to_choice(doc) == theirs.doc_to_choice(doc)
        assert ours.doc_to_target(doc) == theirs.doc_to_target(doc)
    assert ours.aggregation().keys() == theirs.aggregation().keys()


def test_inferences_are_taken_apart(root: Path) -> None:
    found = glue(task="mnli", hub=HUB, test="validation_matched", data_root=str(root))
    assert found["test"].to_list() == [
        {"premise": "It rains.\nIn May.", "hypothesis": "It is dry", "label": 2},
        {"premise": "Ann sings.", "hypothesis": "Somebody sings.", "label": 0},
    ]


def test_faults_of_both_files_come_together(root: Path) -> None:
    write(root / "glue/mnli", train=[{"sentence": "It rains.", "label": "neutral"}])
    (root / "glue/mnli/test.jsonl").unlink()
    with pytest.raises(UserError) as error:
        glue(task="mnli", hub=HUB, test="validation_matched", data_root=str(root))
    train, test = error.value.faults
    assert "train.jsonl: line 1: field 'sentence': not 'sentence 1: ...', a new line" in train
    assert "test.jsonl: cannot be read" in test


def test_a_label_is_0_or_1_and_a_file_has_rows(root: Path) -> None:
    write(root / "glue/cola", train=[{"sentence": "So.", "label": True}], test=[])
    with pytest.raises(UserError) as error:
        glue(task="cola", hub=HUB, test="validation", data_root=str(root))
    train, test = error.value.faults
    assert "field 'label': not one of 0, 1" in train and test.endswith("test.jsonl: has no rows")


def test_without_a_folder_the_hub_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(**arguments: str) -> datasets.Dataset:
        asked.append(arguments)
        row = {"idx": 1, "premise": "P", "hypothesis": "H", "label": 1}
        return datasets.Dataset.from_list([row | {"instruction": "Add.", "response": "x + 1"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = glue(task="mnli", hub=HUB, test="validation_matched", data_root=str(tmp_path))
    assert found["test"].to_list() == [{"premise": "P", "hypothesis": "H", "label": 1}]
    assert [each["split"] for each in asked] == ["train", "validation_matched"]
    (train,) = programs(folder="some", hub=HUB, data_root=str(tmp_path)).values()
    assert train.to_list() == [{"instruction": "Add.", "response": "x + 1"}]


def test_what_is_neither_here_nor_on_the_hub_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_dataset(**_: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError) as error:
        programs(folder="some", hub=HUB, data_root=str(tmp_path))
    (fault,) = error.value.faults
    assert isinstance(fault, Absent), "a plan goes on without it"
    assert f"{tmp_path}/code/some/train.jsonl: not found" in fault and "-o data_root" in fault


def test_programs_of_the_data_root(tmp_path: Path) -> None:
    write(tmp_path / "code/some", train=[{"instruction": "Add.", "response": "x + 1", "id": 1}])
    found = programs(folder="some", hub=HUB, data_root=str(tmp_path))
    assert found["train"].to_list() == [{"instruction": "Add.", "response": "x + 1"}]
