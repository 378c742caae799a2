"""Python code of tasks is loaded from folders that the user named, and from nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cl_bench.data.loading import load_tasks
from cl_bench.errors import UserError
from tests.helpers.own_task import own_task

ROWS = [{"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": "d"}]
CODE = (
    "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\ndef text(doc): return 'q'\n"
)


def task(folder: Path, function: str) -> None:
    """A task below `folder` whose prompts a function makes; YAML tags cannot be dumped."""
    own_task(folder, ROWS, doc_to_text="FUNCTION")
    file = folder / "mine.yaml"
    file.write_text(file.read_text().replace("FUNCTION", f"!function {function}"))


def code(folder: Path, name: str = "code.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(CODE)
    return folder


def refused(folder: Path, *named: Path) -> str:
    with pytest.raises(UserError) as refusal:
        load_tasks(["mine"], task_paths=[str(path) for path in (folder, *named)])
    assert not list(folder.parent.rglob("ran")), "the code was run"
    return str(refusal.value)


def test_a_file_beside_the_yaml_or_below_it_is_loaded(tmp_path: Path) -> None:
    task(code(tmp_path / "own"), "code.text")
    load_tasks(["mine"], task_paths=[str(tmp_path / "own")])
    assert (tmp_path / "own" / "ran").exists()
    code(tmp_path / "own" / "deeper")
    task(tmp_path / "own", "deeper.code.text")
    load_tasks(["mine"], task_paths=[str(tmp_path / "own")])
    assert (tmp_path / "own" / "deeper" / "ran").exists()


def test_dots_do_not_leave_the_folder(tmp_path: Path) -> None:
    code(tmp_path)
    absolute = ".".join(["", *(tmp_path / "code").parts[1:], "text"])
    for name in ("..code.text", "...code.text", absolute, f".{absolute}", "../code.text", ".text"):
        task(tmp_path / "own", f"'{name}'")
        assert "expected module.name" in refused(tmp_path / "own"), name


def test_a_link_does_not_leave_the_folder(tmp_path: Path) -> None:
    other = code(tmp_path / "other")
    task(tmp_path / "own", "code.text")
    (tmp_path / "own" / "code.py").symlink_to(other / "code.py")
    said = refused(tmp_path / "own")
    assert str(other / "code.py") in said and "task_paths" in said
    (tmp_path / "own" / "linked").symlink_to(other)
    task(tmp_path / "own", "linked.code.text")
    assert str(other / "code.py") in refused(tmp_path / "own")
    load_tasks(["mine"], task_paths=[str(tmp_path / "own"), str(other)])  # both are named
    assert (other / "ran").exists()


def test_a_yaml_that_is_included_brings_no_code_of_its_folder(tmp_path: Path) -> None:
    other = tmp_path / "other"
    task(code(other), "code.text")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.yaml").write_text("include: ../other/mine.yaml\ntask: mine\n")
    assert "in none of the folders" in refused(tmp_path / "own")
    (tmp_path / "own" / "mine.yaml").unlink()
    (tmp_path / "own" / "mine.yaml").symlink_to(other / "mine.yaml")
    assert "in none of the folders" in refused(tmp_path / "own")


def test_modules_of_the_current_folder_and_of_python_are_no_code_of_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code(tmp_path, "elsewhere_to_import.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("elsewhere_to_import.text", "os.system", "subprocess.run"):
        task(tmp_path / "own", name)
        assert "not from other modules" in refused(tmp_path / "own"), name
    assert "elsewhere_to_import" not in sys.modules


def test_functions_of_our_package_and_of_shipped_tasks_are_there(tmp_path: Path) -> None:
    loaded = load_tasks(["mini_fomc", "general_piqa"], data_root=data(tmp_path))
    assert callable(loaded["general_piqa"].config.custom_dataset)
    assert callable(loaded["mini_fomc"].config.custom_dataset)


def data(root: Path) -> str:
    folder = root / "general" / "piqa"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}\n')
    return str(root)


@pytest.mark.parametrize("metric", ["accuracy", "./mine.py", "exact_match"])
def test_metrics_that_are_code_of_the_hub_are_not_loaded(metric: str, tmp_path: Path) -> None:
    own_task(tmp_path, ROWS, metric_list=[{"metric": metric, "hf_evaluate": True}])
    with pytest.raises(UserError, match="code from the Hub, which is not run"):
        load_tasks(["mine"], task_paths=[str(tmp_path)])
    own_task(tmp_path, ROWS, metric_list=[{"metric": "no_such"}])
    with pytest.raises(UserError, match="unknown metric 'no_such'"):
        load_tasks(["mine"], task_paths=[str(tmp_path)])
