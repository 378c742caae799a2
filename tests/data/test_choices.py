"""Choices without a text are named by task, document and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cl_bench.data.choices import empty_choice
from cl_bench.data.loading import load_tasks
from cl_bench.errors import UserError

YAML = """task: pick
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: q
doc_to_choice: {choices}
doc_to_target: i
metric_list: [{{metric: acc}}]
"""


def write(folder: Path, options: list[list[str]], choices: str = "c") -> Path:
    rows = [{"q": f"Q{n}", "c": each, "i": 0} for n, each in enumerate(options)]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pick.yaml").write_text(YAML.format(file=folder / "t.jsonl", choices=choices))
    return folder


@pytest.mark.parametrize("choices", ["c", '["yes", ""]'])
def test_an_empty_choice_of_the_first_document_is_named(tmp_path: Path, choices: str) -> None:
    write(tmp_path, [["yes", ""], ["a", "b"]], choices)
    with pytest.raises(UserError) as caught:
        load_tasks(["pick"], task_paths=[tmp_path])
    (fault,) = caught.value.faults
    assert fault.startswith("pick: test document 0: choice 1 of ['yes', ''] is empty")
    assert "doc_to_choice" in fault


def test_one_of_a_later_document_is_found_too(tmp_path: Path) -> None:
    write(tmp_path, [["a", "b"], ["c", "d"], ["", "e"]])
    task = load_tasks(["pick"], task_paths=[tmp_path])["pick"]
    assert "pick: test document 2: choice 0 of ['', 'e']" in str(empty_choice(task, range(3)))
    assert empty_choice(task, [0, 1]) is None
