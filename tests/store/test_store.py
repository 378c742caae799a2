"""Run folders: what exists is whole, what differs is refused."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from cl_bench.errors import RunError, UserError
from cl_bench.store.experiments import (
    find_experiment,
    find_runs,
    read_experiment,
    read_run,
    write_experiment,
    write_run,
)
from cl_bench.store.folders import (
    RunFolder,
    StageFolder,
    locked,
    publish_folder,
    read_json,
    sha256_of,
    verify_folder,
    write_json,
)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "scores.json"
    write_json(file, {"score": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(file, {"score": float("nan")})
    assert read_json(file) == {"score": 1}
    assert [path.name for path in file.parent.iterdir()] == ["scores.json"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text("{")
    with pytest.raises(RunError, match=r"run\.json: unreadable"):
        read_json(file)


def test_stage_states(tmp_path: Path) -> None:
    stage = StageFolder(tmp_path / "stage-1-a")
    assert not stage.trained and not stage.scored
    half = stage.path / ".checkpoint.tmp"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"weights")
    assert not stage.trained
    publish_folder(half, stage.checkpoint)
    assert stage.trained and not stage.scored and not half.exists()
    write_json(stage.scores_file, {})
    assert stage.trained and stage.scored
    (stage.checkpoint / "model.safetensors").unlink()
    assert stage.scored and not stage.trained and stage.worth_keeping


@pytest.mark.parametrize("damage", [b"weight", b"weightz"])
def test_a_changed_checkpoint_is_refused(tmp_path: Path, damage: bytes) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"weights")
    publish_folder(made, tmp_path / "checkpoint")
    verify_folder(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(damage)
    with pytest.raises(RunError, match=r"model\.safetensors"):
        verify_folder(tmp_path / "checkpoint")


def test_checksums_do_not_depend_on_key_order() -> None:
    assert sha256_of({"a": 1, "b": 2}) == sha256_of({"b": 2, "a": 1})


def _hold(folder: Path, ready: multiprocessing.Queue[int], go: multiprocessing.Queue[int]) -> None:
    with locked(folder):
        ready.put(1)
        go.get()


def test_two_processes_do_not_share_an_experiment(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, go = context.Queue(), context.Queue()
    other = context.Process(target=_hold, args=(tmp_path, ready, go))
    other.start()
    ready.get(timeout=60)
    with pytest.raises(UserError, match="another cl-bench"), locked(tmp_path):
        pass
    go.put(1)
    other.join(60)
    with locked(tmp_path):
        pass


def test_experiments_and_runs_are_found_by_name_or_time(tmp_path: Path) -> None:
    for name, when in (("old", "2026-01-01"), ("new", "2026-02-01")):
        write_experiment(tmp_path / name, {"last_run": when, "config": {}})
    assert find_experiment(None, tmp_path).name == "new"
    assert find_experiment("old", tmp_path).name == "old"
    assert find_experiment(str(tmp_path / "old"), tmp_path).name == "old"
    with pytest.raises(UserError, match="did you mean 'old'"):
        find_experiment("odl", tmp_path)
    with pytest.raises(UserError, match="no experiment here"):
        find_experiment(None, tmp_path / "nothing")
    for order, (method, seed) in enumerate((("sft", 1), ("fggm", 1), ("fggm", 2))):
        folder = tmp_path / "new" / method / f"seed-{seed}"
        write_run(folder / "run.json", {"order": order, "config": {}, "sha256": sha256_of({})})
    assert [f"{r.path.parent.name}/{r.path.name}" for r in find_runs(tmp_path / "new")] == [
        "sft/seed-1",
        "fggm/seed-1",
        "fggm/seed-2",
    ]
    assert len(find_runs(tmp_path / "new", "FGGM")) == 2
    assert len(find_runs(tmp_path / "new", "fggm", 2)) == 1
    trained = {"stages": [{"method": [{"fggm": {}}]}] * 2}
    labelled = tmp_path / "new" / "low" / "seed-1"
    write_run(labelled / "run.json", {"order": 3, "config": trained, "sha256": sha256_of(trained)})
    assert [run.path for run in find_runs(tmp_path / "new", "fggm", 1)][1] == labelled
    assert [run.path for run in find_runs(tmp_path / "new", "low")] == [labelled]
    with pytest.raises(UserError, match="did you mean 'fggm'"):
        find_runs(tmp_path / "new", "fgm")
    with pytest.raises(UserError, match="--seed 3"):
        find_runs(tmp_path / "new", seed=3)


def test_an_edited_record_is_refused(tmp_path: Path) -> None:
    """Also where what was edited is no part of the config, whose checksum a run has kept always."""
    write_experiment(tmp_path, {"last_run": "2026", "config": {"seeds": [1]}, "notes": []})
    record = {"config": {"seed": 1}, "sha256": sha256_of({"seed": 1}), "data": {"x": {"test": "1"}}}
    write_run(tmp_path / "run.json", record)
    assert read_experiment(tmp_path)["config"] == {"seeds": [1]}
    assert read_run(tmp_path / "run.json")["data"] == record["data"]
    for name, read in (
        ("experiment.json", lambda: read_experiment(tmp_path)),
        ("run.json", lambda: read_run(tmp_path / "run.json")),
    ):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace('"2026"', '"2027"').replace('"1"', '"2"'))
        with pytest.raises(RunError, match=f"{name}: its checksum is not that of its content"):
            read()


def test_stage_folders_are_in_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"stage-{number}-x").mkdir()
    assert [s.path.name for s in RunFolder(tmp_path).stages()] == [
        "stage-1-x",
        "stage-2-x",
        "stage-10-x",
    ]
