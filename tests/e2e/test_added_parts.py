"""Layers and functions that methods add to a model: scored, lost and made again, refused elsewhere.

In one experiment, because what is asked of them is the same.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cl_bench.cli import run_command
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.launching import launched

METHODS: list[Any] = [
    {"compose": [{"name": "kan_lora", "last_layers": 1}, "ewc"], "label": "kan"},
    {"name": "bottleneck", "size": 8, "lr": 1e-2},
    {"name": "block_expansion", "every": 1, "blocks": "new", "label": "grown", "lr": 1e-2},
]
FUNCTIONS, LABELS = ("kan", "bottleneck"), ("kan", "bottleneck", "grown")
STAGES: list[Any] = [{"task": "FOMC", "limit": 4}, {"task": "trace_numglue_ds", "limit": 4}]
SCORED = {"trace": {"limit": 2}, "general": {"after": "never"}, "probes": False}


def stage_of(bench: Bench, label: str, number: int = 2, name: str = "tiny") -> Path:
    (found,) = (bench.root / "results" / name / label / "seed-1").glob(f"stage-{number}-*")
    return found


def trained(stage: Path) -> dict[str, torch.Tensor]:
    (file,) = (stage / "checkpoint").glob("*.safetensors")
    return load_file(file)


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def test_what_is_added_is_scored_and_made_again(bench: Bench) -> None:
    bench.write_config(methods=METHODS, stages=STAGES, eval=SCORED)
    bench.must("run", "tiny.yaml")
    for label in LABELS:
        scores = read(stage_of(bench, label) / "scores.json")
        assert scores.get("form") == ("adapter" if label in FUNCTIONS else None)
        assert not any("unshared" in entry for entry in scores["trace"].values())
    for number, layers in ((1, 4), (2, 6)):
        grown = stage_of(bench, "grown", number)
        assert read(grown / "checkpoint" / "config.json")["num_hidden_layers"] == layers
        assert len(read(grown / "notes.json")["trained_layers"]) == 2
    inspected = bench.must("inspect", "tiny", "--method", "grown")
    assert "it has other layers than the one before" in inspected

    before = {label: fingerprints(stage_of(bench, label)) for label in LABELS}
    for label in LABELS:
        shutil.rmtree(stage_of(bench, label))
        shutil.rmtree(stage_of(bench, label, 1) / "checkpoint")
    bench.must("run", "tiny.yaml")
    bench.must("verify", "tiny")
    assert {label: fingerprints(stage_of(bench, label)) for label in LABELS} == before

    asked = ("eval", "results/tiny", "--stage", "2", "--task", "FOMC")
    bench.must(*asked)
    bench.must(*asked, "--engine", "hf")
    for label in LABELS:
        records = list(stage_of(bench, label).rglob("trace_fomc.jsonl"))
        assert len(records) == 3 and len({file.read_text() for file in records}) == 1
    code, _, err = bench.run(
        *(*asked, "--method", "kan", "--engine", "hf", "--engine-args", "subprocess=true")
    )
    assert code == 2 and "cannot be merged into its weights" in err

    command = ["run", "tiny.yaml", "-o", "name=two"]
    for one in launched(
        bench.root, lambda rank: run_command(command), environment={"ACCELERATE_USE_CPU": "true"}
    ):
        assert one.code == 0, one.err
    for label in LABELS:
        left, right = (trained(stage_of(bench, label, name=name)) for name in ("tiny", "two"))
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert torch.allclose(value, right[key], atol=1e-4), key

    checkpoint = stage_of(bench, "bottleneck") / "checkpoint"
    bench.write_config(model={"path": str(checkpoint), "dtype": "float32"})
    code, _, err = bench.run("plan", "tiny.yaml")
    assert code == 2 and "holds functions beside a model" in err


GROWING = {"name": "block_expansion", "every": 1}


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (["bottleneck", "sft"], "goes on with what bottleneck added to the model in stage 1"),
        (["kan_lora", "lora"], "goes on with what kan_lora added to the model in stage 1"),
        ([GROWING, "sft"], "goes on with what block_expansion added to the model in stage 1"),
        (
            ["bottleneck", {"name": "bottleneck", "size": 8}],
            "give both stages the same method and options",
        ),
        (["lora", "bottleneck"], "an adapter of stage 1, under which bottleneck has no place"),
        (["sft", "block_expansion"], "every: 4: this model has 2 layers"),
        ([{"name": "lora", "incremental": True}, "kan_lora"], None),
    ],
)
def test_stages_that_go_on_with_what_was_added(
    bench: Bench, methods: Any, said: str | None
) -> None:
    stages = [{**stage, "method": each} for stage, each in zip(STAGES, methods, strict=True)]
    bench.write_config(stages=stages, methods=None, eval=SCORED)
    if said is None:
        bench.must("run", "tiny.yaml")
        return
    for command in ("plan", "run"):
        code, _, err = bench.run(command, "tiny.yaml")
        assert code == 2 and said in err, err
    assert not bench.results.exists()


def test_engines_that_load_whole_weights_are_refused_before_the_start(bench: Bench) -> None:
    bench.write_config(methods=["bottleneck"], stages=STAGES, eval=SCORED)
    arguments = ("--engine", "hf", "--engine-args", "subprocess=true")
    code, _, err = bench.run("run", "tiny.yaml", *arguments)
    assert code == 2 and "bottleneck trains functions beside the model" in err
    assert not bench.results.exists()
