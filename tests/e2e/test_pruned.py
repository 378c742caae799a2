"""What is scored stays scored, whatever became of the checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import cl_bench.experiment.stage_training as stage_module
from tests.e2e.conftest import Bench, fingerprints

THREE = [
    {"task": "NumGLUE-ds", "epochs": 1, "limit": 4},
    {"task": "FOMC", "epochs": 1, "limit": 4},
    {"task": "mini_fomc", "epochs": 1, "limit": 4, "test_limit": 3},
]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the stages that the commands of this process train."""
    numbers: list[int] = []
    train = stage_module.train_stage

    def note(stage, *rest):
        numbers.append(stage.index)
        return train(stage, *rest)

    monkeypatch.setattr(stage_module, "train_stage", note)
    return numbers


def _whole(folder: Path) -> dict[str, str]:
    """All that training and scoring write."""
    made = ("report.md", "report-full.md", "summary.json")
    return {name: one for name, one in fingerprints(folder).items() if not name.endswith(made)}


def test_a_finished_run_needs_no_checkpoint(bench: Bench, trained: list[int]) -> None:
    bench.write_config(methods=["ewc", "lora"])
    bench.must("run", "tiny.yaml")
    assert trained == [1, 2, 1, 2]
    for folder in bench.results.glob("*/seed-1/stage-*/checkpoint"):
        shutil.rmtree(folder)
    pruned = _whole(bench.results)
    bench.write_config(methods=["ewc", "lora", "sft"])
    bench.must("run", "tiny.yaml")
    assert trained == [1, 2, 1, 2, 1, 2]
    for method in ("ewc", "lora"):
        kept = {name: one for name, one in pruned.items() if name.startswith(method)}
        assert kept == {n: o for n, o in _whole(bench.results).items() if n.startswith(method)}

    code, _, err = bench.run("eval", "--stage", "2", "--method", "lora")
    assert code == 2 and "checkpoint is not there" in err and "scores.json" in err, err
    code, _, err = bench.run("eval", "--stage", "3", "--method", "sft")
    assert code == 2 and "no stage 3" in err, err
    stage = bench.results / "sft/seed-1/stage-1-trace_fomc"
    shutil.rmtree(stage / "predictions")
    code, _, err = bench.run("diff", "base", "sft/stage-1")
    assert code == 2 and "cl-bench eval tiny --stage 1 --method sft --seed 1" in err, err


@pytest.mark.parametrize("method", ["ewc", "lora"])
def test_a_checkpoint_that_is_needed_is_trained_again_beside(
    bench: Bench, trained: list[int], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    bench.write_config(methods=[method], stages=THREE)
    bench.must("run", "tiny.yaml")
    whole = _whole(bench.results)
    run = bench.results / method / "seed-1"
    first, second, third = (next(run.glob(f"stage-{i}-*")) for i in (1, 2, 3))
    shutil.rmtree(first / "checkpoint")
    weights = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    (second / "checkpoint" / weights).unlink()  # its manifest stays
    shutil.rmtree(third)
    kept = {name: file for name, file in _whole(bench.results).items() if "checkpoint" not in name}
    trained.clear()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage_module, "train_stage", interrupted)
        code, _, err = bench.run("run", "tiny.yaml")
    assert code == 130 and "checkpoint" in err
    now = _whole(bench.results)
    assert kept == {name: now[name] for name in kept}

    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 0, err
    assert trained == [1, 2, 3]
    assert "stage 2" in err and "trained again" in err and "kept" in err
    assert _whole(bench.results) == whole
    assert not list(bench.results.rglob(".again")) and not list(bench.results.rglob("retrained*"))


def test_a_second_training_that_ends_elsewhere_is_said_recorded_and_reported(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write_config(methods=["sft"])
    bench.trained()
    first, second = sorted((bench.results / "sft/seed-1").glob("stage-*"))
    kept = fingerprints(first)
    shutil.rmtree(first / "checkpoint")
    shutil.rmtree(second)
    train = stage_module.train_stage

    def otherwise(stage, *rest):
        train(stage, *rest)
        if stage.index == 1:
            next(stage.model.parameters()).data.mul_(1.5)

    monkeypatch.setattr(stage_module, "train_stage", otherwise)
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 0 and "another checkpoint than was scored" in err, err
    assert json.loads((first / "retrained.json").read_text())["checkpoint"]
    for name in ("scores.json", "train.jsonl", "predictions/trace_fomc.jsonl"):
        assert fingerprints(first)[name] == kept[name]
    text = bench.report()
    assert "sft, seed 1, stage 1: trained again" in text
    bench.must("run", "tiny.yaml")
    bench.must("eval", "--stage", "1", "--limit", "2")
