"""Trackers are told of runs: what TensorBoard and MLflow stored is read back."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cl_bench.trackers import known
from cl_bench.trackers.base import TrackedRun
from cl_bench.trackers.known import TRACKERS
from cl_bench.trackers.mlflow import MLflow
from cl_bench.trackers.tensorboard import TensorBoard
from cl_bench.trackers.trackio import Trackio
from cl_bench.trackers.wandb import WandB
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.read import lines_of, scores_of

SMALL = {
    "methods": ["sft"],
    "eval": {"trace": {"limit": 2}, "general": {"tasks": ["piqa"], "limit": 2}, "probes": False},
}
RUN = ["run", "tiny.yaml"]
STAGES = ("stage-1-trace_fomc", "stage-2-trace_numglue_ds")


def about(folder: Path, id: str | None = None) -> TrackedRun:
    config = {"model": {"path": "m"}, "stages": [{"train": {"lr": 1e-3}}]}
    return TrackedRun("tiny", "sft, seed 1", folder, "sft/seed-1", config, id)


def expected(results: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves as the run's own files have them."""
    run = results / "sft" / "seed-1"
    found: dict[str, list[tuple[int, float]]] = {}
    for stage in STAGES:
        for line in lines_of(run / stage / "train.jsonl"):
            for name in ("loss", "lr", "grad_norm", "tokens", "epoch"):
                found.setdefault(f"train/{stage}/{name}", []).append((line["step"], line[name]))
    for number, place in enumerate([results / "base", *(run / stage for stage in STAGES)]):
        scores = scores_of(place)
        values = {name: entry["score"] for name, entry in scores["trace"].items()}
        values |= {"piqa": scores["general"]["piqa"]["score"]}
        values |= {"General": scores["general"]["mean"], "OP": scores.get("op")}
        for name, value in values.items():
            if value is not None:
                found.setdefault(f"score/{name}", []).append((number, 100 * value))
    return found


def same(found: dict[str, list[tuple[int, float]]], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, points in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        values = [value for _, value in points]
        assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-6), name


def of_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    module = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def of_mlflow(folder: Path) -> tuple[Any, dict[str, list[tuple[int, float]]]]:
    mlflow = importlib.import_module("mlflow")
    client = mlflow.MlflowClient(folder.resolve().as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    curves = {
        name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    return run, curves


def test_what_a_run_tells_is_there_and_changes_nothing(bench: Bench) -> None:
    """In two sessions: the second goes on with the runs of the first, and repeats nothing."""
    bench.write_config(**SMALL, stages=[{"task": "FOMC", "limit": 8}])
    bench.must(*RUN)
    untracked = fingerprints(bench.results)
    stages = [{"task": "FOMC", "limit": 8}, {"task": "trace_numglue_ds", "epochs": 2}]
    bench.write_config(**SMALL, stages=stages)
    shutil.rmtree(bench.results)
    bench.write_config(stages=stages[:1], track=["tensorboard", "mlflow"])
    bench.must(*RUN)
    tracking = bench.results / "tracking"
    now = {k: v for k, v in fingerprints(bench.results).items() if not k.startswith("tracking/")}
    assert now == untracked
    first, _ = of_mlflow(tracking / "mlflow")
    assert first.info.status == "FINISHED" and first.data.params["stages.0.train.lr"] == "0.001"

    bench.write_config(stages=stages)  # appended: the same run goes on
    bench.must(*RUN)
    wanted = expected(bench.results)
    assert len(wanted[f"train/{STAGES[1]}/loss"]) == 6
    same(of_tensorboard(tracking / "tensorboard" / "sft" / "seed-1"), wanted)
    run, curves = of_mlflow(tracking / "mlflow")
    same(curves, wanted)
    assert run.info.run_id == first.info.run_id and run.info.run_name == "sft, seed 1"
    bench.must(*RUN)  # nothing to do, nothing to tell
    same(of_mlflow(tracking / "mlflow")[1], wanted)
    notes = json.loads(bench.must("verify", "tiny", "--json"))
    assert notes["faults"] == [] and not [n for n in notes["notes"] if "tracking" in n]


@pytest.mark.parametrize("name", TRACKERS)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_one_that_is_not_installed_is_refused(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    command: str,
) -> None:
    monkeypatch.setattr(known, "find_spec", lambda package: None)
    bench.write_config(**SMALL, track=[name])
    code, _, err = bench.run(command, "tiny.yaml")
    assert code == 2 and f"track: {name}: " in err
    assert f"pip install '{TRACKERS[name].install}'" in err and not bench.results.exists()


@pytest.mark.parametrize("track", [["tensorbord"], ["mlflow", "mlflow"], "wandb2"])
def test_names_are_checked(bench: Bench, track: Any) -> None:
    bench.write_config(**SMALL, track=track)
    code, _, err = bench.run("plan", "tiny.yaml")
    assert code == 2 and "track" in err


@pytest.mark.parametrize("fails", ["begin", "step", "scores", "end"])
def test_one_that_fails_is_warned_about_once(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    def broken(*_: object) -> None:
        raise ConnectionError("no route\nto the server")

    monkeypatch.setattr(TensorBoard, fails, broken)
    bench.write_config(**SMALL, track=["tensorboard"])
    code, out, err = bench.run(*RUN)
    assert code == 0 and "# tiny" in out
    (line,) = [line for line in err.splitlines() if "track:" in line]
    assert (
        line == "warning: track: tensorboard: ConnectionError: no route; the run goes on without it"
    )


class _Stored(ModuleType):
    """Stands for a package: what is called is kept."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []

    def init(self, **given: Any) -> _Stored:
        self.calls.append(("init", given))
        return self

    def log(self, values: dict[str, Any]) -> None:
        self.calls.append(("log", values))

    def define_metric(self, name: str, **given: Any) -> None:
        self.calls.append(("define", (name, given)))

    def finish(self, **given: Any) -> None:
        self.calls.append(("finish", given))


@pytest.mark.parametrize(("name", "kind"), [("wandb", WandB), ("trackio", Trackio)])
def test_the_calls_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[WandB] | type[Trackio]
) -> None:
    """Not their own code: what they are called with, which two sessions, and no network."""
    stored = _Stored(name)
    monkeypatch.setitem(sys.modules, name, stored)
    for variable in ("WANDB_MODE", "TRACKIO_DIR", "WANDB_SILENT", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    assert importlib.import_module(name) is stored
    tracker = kind()
    identity = tracker.begin(about(tmp_path / name))
    tracker.step("stage-1-a", 3, {"loss": 2.0})
    tracker.scores(1, {"General": 50.0})
    tracker.end("interrupted")
    assert kind().begin(about(tmp_path / name, identity)) == identity
    kinds = [call for call, _ in stored.calls if call != "define"]
    assert kinds == ["init", "log", "log", "finish", "init"]
    logged = [values for call, values in stored.calls if call == "log"]
    assert logged == [
        {"train/stage-1-a/update": 3, "train/stage-1-a/loss": 2.0},
        {"stage": 1, "score/General": 50.0},
    ]
    first, second = (given for call, given in stored.calls if call == "init")
    assert first["project"] == "tiny" and first["resume"] == "allow"
    assert (first["name"], first.get("id")) == (second["name"], second.get("id"))
    if name == "wandb":
        assert first["mode"] == "offline" and first["dir"].startswith(str(tmp_path))


def test_mlflow_keeps_its_runs_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = importlib.import_module("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "server").as_uri())
    tracker = MLflow()
    identity = tracker.begin(about(tmp_path / "ours"))
    tracker.end("diverged")
    client = mlflow.MlflowClient((tmp_path / "server").as_uri())
    assert client.get_run(identity).info.status == "FAILED" and not (tmp_path / "ours").exists()
