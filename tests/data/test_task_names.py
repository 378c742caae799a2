"""Names of tasks: one name means one task, whoever defines it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cl_bench.data.tasks import unknown_task
from cl_bench.experiment.resolve import resolve_file
from tests.helpers.configs import faults_of, write

TASK = {"output_type": "multiple_choice", "test_split": "test"}


def put(folder: Path, file: str, **keys: Any) -> Path:
    path = folder / "own" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(keys))
    return path


def config(folder: Path, general: list[str], *stages: str, **options: Any) -> str:
    (folder / "own").mkdir(exist_ok=True)
    return write(
        folder,
        stages=[{"task": task} for task in stages or ("mini_fomc",)],
        task_paths=["own"],
        eval={"general": {"tasks": general, **options}},
    )


def must_hold(path: str, *parts: str) -> None:
    (fault,) = faults_of(path)
    assert all(part in fault for part in parts), fault


@pytest.mark.parametrize("name", ["general_boolq", "general_gsm8k"])
def test_own_tasks_cannot_shadow_generals(tmp_path: Path, name: str) -> None:
    file = put(tmp_path, "mine.yaml", task=name, **TASK)
    must_hold(config(tmp_path, [name.removeprefix("general_")]), str(file), "both define it")


def test_own_tasks_cannot_shadow_members_of_groups(tmp_path: Path) -> None:
    """Of our group by our YAMLs, and of one that refers to lm-eval's own tasks."""
    file = put(tmp_path, "deep/mine.yaml", task="bbh_cot_fewshot_navigate", **TASK)
    path = config(tmp_path, ["bbh"])
    must_hold(path, str(file), "'bbh_cot_fewshot_navigate'", "group 'general_bbh'", "rename it")


def test_own_tasks_do_not_take_lm_evals_names(tmp_path: Path) -> None:
    """Found in a folder of the name, and in a file of it."""
    for name, where in (("cola", "glue/cola/"), ("arc_easy", "arc/")):
        file = put(tmp_path, "mine.yaml", task=name, **TASK)
        must_hold(config(tmp_path, [], name, after="never"), str(file), where, "rename it")
    put(tmp_path, "mine.yaml", task="my_cola", **TASK)
    resolve_file(config(tmp_path, [], "my_cola", after="never"))


def test_own_tasks_cannot_be_shadowed(tmp_path: Path) -> None:
    file = put(tmp_path, "mine.yaml", task="PIQA", **TASK)
    must_hold(config(tmp_path, ["PIQA"]), str(file), "never reached", "write general_piqa")
    put(tmp_path, "mine.yaml", task="NumGLUE-cm", **TASK)
    path = config(tmp_path, [], "NumGLUE-cm", after="never")
    must_hold(path, str(file), "never reached", "trace_numglue_cm")
    put(tmp_path, "mine.yaml", task="mini_fomc", **TASK)
    must_hold(config(tmp_path, [], after="never"), str(file), "both define it")


def test_names_that_nobody_asked_for_may_be_anything(tmp_path: Path) -> None:
    put(tmp_path, "mine.yaml", task="general_piqa", **TASK)
    put(tmp_path, "a.yaml", task="twice", **TASK)
    put(tmp_path, "b.yaml", task="twice", **TASK)
    (tmp_path / "own" / "broken.yaml").write_text("task: [unclosed\n a: 1\na: 2")
    with pytest.raises(pytest.fail.Exception):
        faults_of(config(tmp_path, ["boolq"]))


def test_two_files_cannot_define_one_task(tmp_path: Path) -> None:
    first = put(tmp_path, "a.yaml", task="mine", **TASK)
    second = put(tmp_path, "sub/b.yaml", task="mine", **TASK, description="another")
    must_hold(config(tmp_path, [], "mine", after="never"), str(first), str(second))
    put(tmp_path, "group.yaml", group="both", task=[{"task": "mine"}, {"group": "x", "task": []}])
    must_hold(config(tmp_path, ["both"]), str(first), str(second))
    second.unlink()
    path = write(
        tmp_path,
        stages=[{"task": "mine"}],
        task_paths=["own", "own/.", "own/sub"],  # one file, reached twice
        eval={"general": {"after": "never"}},
    )
    with pytest.raises(pytest.fail.Exception):
        faults_of(path)


def test_a_yml_is_pointed_out(tmp_path: Path) -> None:
    file = put(tmp_path, "mine.yml", task="short", **TASK)
    assert unknown_task("short", [file.parent]) == (
        f"unknown task 'short': {file} defines it, but only .yaml is read: rename it"
    )


def test_a_task_is_scored_once(tmp_path: Path) -> None:
    must_hold(config(tmp_path, ["piqa", "general_piqa"]), "piqa and general_piqa are one task")
    must_hold(config(tmp_path, ["boolq", "boolq"]), "boolq twice")
    must_hold(config(tmp_path, ["FOMC"], "trace_fomc"), "FOMC", "is a stage", "leave it out")
    must_hold(config(tmp_path, ["mini_fomc"]), "mini_fomc", "is a stage")
    path = write(tmp_path, eval={"within_stage": {"tasks": ["FOMC", "trace_fomc"]}})
    assert any("FOMC and trace_fomc are one task" in fault for fault in faults_of(path))


@pytest.mark.parametrize("name", ["../up", "a/b", "a\\b", "..", "x" * 201, "a\tb"])
def test_names_that_cannot_begin_a_files_name(tmp_path: Path, name: str) -> None:
    assert any(": task " in fault for fault in faults_of(config(tmp_path, ["piqa"], name)))


def test_keys_that_a_task_has_twice(tmp_path: Path) -> None:
    file = put(tmp_path, "mine.yaml", task="mine", **TASK, include="_base")
    text = file.read_text()
    file.write_text(text + "doc_to_text: !function utils.f\ntest_split: other\n")
    (file.parent / "_base").write_text("a: {b: 1, b: 2}\n")
    found = faults_of(config(tmp_path, [], "mine", after="never"))
    assert len(found) == 2
    assert f"{file}: test_split: given twice, in line 4 and in line 6: keep one" in found[0]
    assert "_base: a.b: given twice, in line 1 and in line 1" in found[1]
