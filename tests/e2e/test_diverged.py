"""A run that diverges is recorded and reported; the others go on, and it can be mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cl_bench.experiment.stage_training as stage_module
from tests.e2e.conftest import Bench

NEVER = {"trace": {"limit": 4}, "general": {"after": "never"}, "probes": False}
WILD = {"name": "sft", "label": "wild", "lr": 1e30}


def test_the_other_runs_go_on_and_the_advice_can_be_followed(bench: Bench) -> None:
    bench.write_config(methods=[WILD, "sft"])
    code, out, err = bench.run("run", "tiny.yaml")
    assert code == 1 and "1 of 2 runs failed; the others are complete" in err
    assert "wild, seed 1, stage 1 (trace_fomc): diverged at update 2: loss nan" in err
    assert "lr: (or" in err and "entry of methods:" in err
    assert "Unfinished: wild (0 of 2 stages, diverged in stage 1)." in out
    assert "wild, seed 1, stage 1: diverged at update 2" in bench.report()
    failed = json.loads((bench.results / "wild/seed-1/stage-1-trace_fomc/failed.json").read_text())
    assert failed["update"] == 2 and failed["loss"] is None and failed["lr"] > 1e29
    assert (bench.results / "sft/seed-1/stage-2-trace_numglue_ds/scores.json").is_file()

    again, _, err = bench.run("run", "tiny.yaml")  # nothing is trained a second time to fail
    assert again == 1 and "training" not in err and "delete" in err

    bench.write_config(methods=[{**WILD, "lr": 1e-3}, "sft"])
    out = bench.must("run", "tiny.yaml")
    assert "diverged" not in out and not list(bench.results.rglob("failed.json"))


BROKEN = """
from cl_bench.methods.base import Method

class Broken(Method):
    name = "broken"

    def after_step(self, masters):
        next(iter(masters.values())).fill_(float("inf"))
        return True
"""


def test_what_the_last_update_broke_is_found(bench: Bench) -> None:
    """One update, whose loss and gradient are finite: what it leaves is not."""
    stages = [{"task": "FOMC", "epochs": 1, "limit": 4}]
    (bench.root / "broken.py").write_text(BROKEN)
    methods = [WILD, {"file": "broken.py"}]
    bench.write_config(methods=methods, stages=stages, eval=NEVER)
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 1 and "2 of 2 runs failed" in err, err
    assert (
        "wild, seed 1, stage 1 (trace_fomc): diverged in its last update, number 1: the loss" in err
    )
    assert "diverged in its last update, number 1: model.embed_tokens.weight is not finite" in err
    assert not list(bench.results.glob("*/seed-1/stage-1-trace_fomc/checkpoint"))


def test_later_stages_name_what_has_to_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write_config(methods=["sft"])
    train = stage_module.train_stage

    def diverging(stage, *rest):
        if stage.index == 2:
            next(stage.model.parameters()).data.fill_(float("inf"))
        return train(stage, *rest)

    monkeypatch.setattr(stage_module, "train_stage", diverging)
    code, out, err = bench.run("run", "tiny.yaml")
    assert code == 1 and "stage 2" in err and "another label:" in err
    assert str(Path("results/tiny/sft/seed-1")) in err
    assert "(1 of 2 stages, diverged in stage 2)" in out


def test_a_dead_model_is_noted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [{"task": "FOMC", "epochs": 2, "limit": 4}]
    bench.write_config(methods=["sft"], stages=stages, eval=NEVER)
    train = stage_module.train_stage

    def dead(stage, *rest):
        for parameter in stage.model.parameters():
            parameter.data.zero_()
        return train(stage, *rest)

    monkeypatch.setattr(stage_module, "train_stage", dead)
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 0 and "gradient was exactly 0" in err
    notes = json.loads((bench.results / "sft/seed-1/stage-1-trace_fomc/notes.json").read_text())
    assert "epoch 1, 2" in notes["dead"] and "gradient was exactly 0" in bench.report()
