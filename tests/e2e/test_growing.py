"""Sequences that grow: a start that ends early, and an experiment that goes on from another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.read import scores_of

FIRST, SECOND = "stage-1-trace_fomc", "stage-2-trace_numglue_ds"


def test_a_start_ends_after_a_stage_and_the_next_goes_on(bench: Bench) -> None:
    bench.write_config(methods=["sft", "lora"])
    assert "this start ends after stage 1" in bench.must("plan", "tiny.yaml", "--until", "1")
    code, out, err = bench.run("run", "tiny.yaml", "--until", "FOMC", "-o", "name=part")
    assert code == 0, err
    part = bench.root / "results/part"
    for run in (part / "sft/seed-1", part / "lora/seed-1"):
        assert scores_of(run / FIRST)["trace"] and not (run / SECOND).exists()
    assert "1 of 2 stages" in out
    assert "training" not in bench.run("run", "tiny.yaml", "--until", "1", "-o", "name=part")[2]
    code, _, err = bench.run("run", "tiny.yaml", "-o", "name=part")
    assert code == 0 and "stage 1/2" not in err and "stage 2/2" in err
    bench.must("run", "tiny.yaml")
    for run in ("sft/seed-1", "lora/seed-1"):
        assert fingerprints(part / run) == fingerprints(bench.results / run)


@pytest.mark.parametrize(
    ("until", "methods", "says"),
    [
        ("3", ["sft"], "--until 3: no stage of this config"),
        ("FOMX", ["sft"], "--until FOMX: no stage of this config"),
        (
            "FOMC",
            ["sft", {"name": "mtl", "epochs": 1}],
            "--until FOMC: mtl trains all stages at once",
        ),
    ],
)
def test_a_stage_that_there_is_not_is_refused(
    until: str, methods: list[Any], says: str, bench: Bench
) -> None:
    bench.write_config(methods=methods)
    for command in ("plan", "run"):
        code, _, err = bench.run(command, "tiny.yaml", "--until", until)
        assert code == 2 and says in err
    bench.write_config(stages=[{"task": "FOMC"}, {"task": "trace_numglue_ds"}, {"task": "FOMC"}])
    code, _, err = bench.run("plan", "tiny.yaml", "--until", "FOMC")
    assert code == 2 and "stages 1 and 3 train it: give a number" in err


def go_on(bench: Bench, **model: str) -> tuple[int, str, str]:
    """Run one more month, `next`, from another model."""
    months = bench.root / "months"
    months.mkdir(exist_ok=True)
    rows = [{"prompt": f"{i}?", "answer": str(i)} for i in range(6)]
    (months / "mar.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bench.write_config(
        name="next",
        model={"dtype": "float32", **model},
        methods=["sft"],
        stages=[{"data": "mar.jsonl", "holdout": 2}],
        data_root="../data",
    )
    bench.config.rename(months / "next.yaml")
    return bench.run("run", "months/next.yaml")


def test_an_experiment_goes_on_from_a_stage_of_another(bench: Bench) -> None:
    bench.trained()
    stage = bench.results / "sft/seed-1" / FIRST
    code, _, err = go_on(bench, **{"from": "tiny/sft@1"})
    assert code == 0, err
    base = scores_of(bench.root / "results/next/base")
    assert base["general"]["piqa"]["score"] == scores_of(stage)["general"]["piqa"]["score"]
    assert base["inputs"]["model"]["files"]["model.safetensors"] == _sum_of(stage)
    bench.must("eval", "next", "--stage", "1", "--limit", "2")
    bench.must("verify", "next")
    assert "sft" in bench.must("report", "next")
    assert bench.run("run", "months/next.yaml")[0] == 0


def _sum_of(stage: Path) -> str:
    manifest = json.loads((stage / "checkpoint/manifest.json").read_text())
    files = manifest.get("files", manifest)
    return str(files["model.safetensors"]["sha256"])


def test_a_part_of_a_model_is_exported_first(bench: Bench) -> None:
    bench.write_config(methods=[{"name": "lora", "lr": 1e-2}])
    bench.trained()
    code, _, err = go_on(bench, **{"from": "tiny/lora"})
    assert code == 2 and "export tiny/lora FOLDER --stage 2 --merge" in err
    bench.must("export", "tiny/lora", "whole", "--merge")
    code, _, err = bench.run(
        "run", "months/next.yaml", "-o", "model.from=null", "-o", "model.path=whole"
    )
    assert code == 0, err
    asked = ("--task", "piqa", "--limit", "4", "--data-root", "data")
    bench.must("eval", "whole", *asked)
    merged = AutoModelForCausalLM.from_pretrained(bench.root / "whole", dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(bench.root / "model", dtype=torch.float32)
    changed = [
        name
        for (name, one), other in zip(merged.named_parameters(), plain.parameters(), strict=True)
        if not torch.equal(one, other)
    ]
    assert changed and all("q_proj" in name or "v_proj" in name for name in changed)
    (scored,) = (bench.root / "results/models").glob("whole-*")
    own = bench.results / "lora/seed-1" / SECOND / "predictions/general_piqa.jsonl"
    found, wanted = (
        [json.loads(line)["loglikelihoods"] for line in file.read_text().splitlines()]
        for file in (scored / "predictions/general_piqa.jsonl", own)
    )
    assert all(
        one == pytest.approx(other, abs=1e-3) for one, other in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"from": "tiny/sft@9"}, "next.yaml: model.from: tiny/sft@9: no stage 9 in"),
        ({"from": "tiny/sfd@1"}, "model.from: tiny/sfd: no 'sfd' in results/tiny"),
        ({"from": "@1"}, "model.from: '@1': expected NAME/method@stage"),
        ({"from": "tiny/sft@1", "path": "x"}, "model: from: and path: both say which model"),
    ],
)
def test_a_stage_that_is_not_there_is_refused(
    model: dict[str, str], says: str, bench: Bench
) -> None:
    bench.trained()
    code, _, err = go_on(bench, **model)
    assert code == 2 and says in err
