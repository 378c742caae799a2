"""Models that a method adds layers to: from the config to scores, again from the disk, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from cl_bench.cli import run_command
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.launching import launched

GROWING = {"name": "block_expansion", "every": 1, "blocks": "new", "lr": 1e-2}
STAGES = [{"task": "FOMC", "limit": 4}, {"task": "trace_numglue_ds", "limit": 4}]


def stage_of(bench: Bench, name: str, number: int) -> Path:
    (run,) = (bench.root / "results" / name).glob("block*/seed-1")
    (found,) = run.glob(f"stage-{number}-*")
    return found


def test_a_model_grows_from_stage_to_stage(bench: Bench) -> None:
    """What was interrupted or deleted comes out again, by two processes too."""
    scored = {"trace": {"limit": 2}, "general": {"after": "never"}}
    bench.write_config(methods=[GROWING], stages=STAGES, eval=scored)
    plan = bench.must("plan", "tiny.yaml")
    assert "block_expansion" in plan
    bench.must("run", "tiny.yaml")
    for number, layers in ((1, 4), (2, 6)):
        folder = stage_of(bench, "tiny", number)
        assert (
            json.loads((folder / "checkpoint/config.json").read_text())["num_hidden_layers"]
            == layers
        )
        assert len(json.loads((folder / "notes.json").read_text())["trained_layers"]) == 2
        scores = json.loads((folder / "scores.json").read_text())
        assert not any("unshared" in entry for entry in scores["trace"].values())
    inspected = bench.must("inspect", "tiny")
    assert "it has other layers than the one before" in inspected

    bench.must("eval", "results/tiny", "--stage", "2", "--task", "FOMC")
    for name in ("predictions/trace_fomc.jsonl", "predictions/trace_fomc.probes.jsonl"):
        scored, again = sorted(stage_of(bench, "tiny", 2).rglob(name))
        assert scored.read_text() == again.read_text()

    whole = fingerprints(stage_of(bench, "tiny", 2) / "checkpoint")
    shutil.rmtree(stage_of(bench, "tiny", 2))
    shutil.rmtree(stage_of(bench, "tiny", 1) / "checkpoint")
    bench.must("run", "tiny.yaml")
    assert fingerprints(stage_of(bench, "tiny", 2) / "checkpoint") == whole

    command = ["run", "tiny.yaml", "-o", "name=two"]
    for one in launched(
        bench.root, lambda rank: run_command(command), environment={"ACCELERATE_USE_CPU": "true"}
    ):
        assert one.code == 0, one.err
    left, right = (
        load_file(stage_of(bench, name, 2) / "checkpoint/model.safetensors")
        for name in ("tiny", "two")
    )
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.allclose(value, right[name], atol=1e-5), name


def test_what_cannot_go_on_from_it_is_refused_before_the_start(bench: Bench) -> None:
    mixed = [{**STAGES[0], "method": {"name": "block_expansion", "every": 1}}]
    mixed.append({**STAGES[1], "method": "sft"})
    bench.write_config(stages=mixed, methods=None)
    for command in ("plan", "run"):
        code, _, err = bench.run(command, "tiny.yaml")
        assert code == 2 and "goes on with the layers that block_expansion added" in err
    bench.write_config(stages=STAGES, methods=["block_expansion"])
    for command in ("plan", "run"):
        code, _, err = bench.run(command, "tiny.yaml")
        assert code == 2 and "every: 4: this model has 2 layers" in err
    assert not bench.results.exists()
