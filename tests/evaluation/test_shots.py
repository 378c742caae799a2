"""The documents that shots are drawn from are part of what a kept score depends on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cl_bench.data.loading import load_task_set
from cl_bench.evaluation.units import Unit
from tests.helpers.general_rows import rows


def basis(root: Path, benchmark: str) -> dict[str, Any]:
    """What a unit of one document a member depends on."""
    name = f"general_{benchmark}"
    suite = load_task_set([name], root)
    tasks = {leaf: suite.tasks[leaf] for leaf in suite.members[name]}
    return Unit("general", benchmark, tasks, {leaf: [0] for leaf in tasks}).depends_on()


def write(root: Path, name: str, lines: list[dict[str, Any]]) -> None:
    file = root / "general" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(("benchmark", "shots"), [("mmlu", "dev"), ("gsm8k", "train")])
def test_a_changed_file_of_shots_changes_it(tmp_path: Path, benchmark: str, shots: str) -> None:
    given = {name: lines for name, lines in rows().items() if name.startswith(benchmark)}
    for root in ("a", "b", "c"):
        for name, lines in given.items():
            write(tmp_path / root, name, lines)
    *others, last = given[f"{benchmark}/{shots}"]
    write(tmp_path / "c", f"{benchmark}/{shots}", [*others, last | {"question": "Another?"}])
    before = basis(tmp_path / "a", benchmark)
    assert basis(tmp_path / "b", benchmark) == before, "where the data lies is no part"
    after = basis(tmp_path / "c", benchmark)
    assert {key for key in before if before[key] != after[key]} == {"shots"}


def test_without_shots_another_split_is_no_part(tmp_path: Path) -> None:
    for root, text in (("a", "x"), ("b", "y")):
        write(tmp_path / root, "piqa/test", rows()["piqa/test"])
        write(tmp_path / root, "piqa/train", [{"goal": text}])
    assert basis(tmp_path / "a", "piqa") == basis(tmp_path / "b", "piqa")
