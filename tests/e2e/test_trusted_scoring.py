"""A score comes from all of its inputs and from nothing else, or the run says what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cl_bench.evaluation.engines.opened import Subject
from cl_bench.store.folders import locked
from tests.e2e.conftest import Bench
from tests.helpers.own_task import own_task


def damage_deleted(file: Path) -> None:
    file.unlink()


def damage_changed(file: Path) -> None:
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(".log_p"))
    tensors[name][0, 0] += 1.0
    save_file(tensors, file)


def damage_cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize("damage", [damage_deleted, damage_changed, damage_cut])
def test_a_divergence_from_a_damaged_reference_is_refused(bench: Bench, damage) -> None:
    bench.write_config(methods=["sft"])
    bench.trained()
    file = next((bench.results / "base" / "kl").glob("*.safetensors"))
    damage(file)
    bench.write_config(methods=["sft", {"name": "fggm", "alpha": 0.5}])
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 1 and f"{file.name}: " in err and "the base model again" in err, err
    scored = list((bench.results / "fggm").rglob("scores.json"))
    assert not scored, "nothing is scored against a part of the reference"
    trained = list((bench.results / "fggm").rglob("train.jsonl"))
    assert not trained, "nothing is trained to be compared with it"


def no_constants(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def test_a_document_without_numbers_leaves_its_cell_unmeasured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After training the model has no numbers for one byte: in FOMC's document 7 alone."""

    def poisoned(model, tokenizer, folder):
        token = tokenizer.encode("7", add_special_tokens=False)[0]
        model.get_input_embeddings().weight.data[token] = torch.nan
        return Subject(model, tokenizer, folder)

    monkeypatch.setattr("cl_bench.experiment.stage.Subject", poisoned)
    evaluation = {"general": {"tasks": ["piqa"], "limit": 4}}
    stages = [{"task": "FOMC", "epochs": 1, "limit": 4}]
    bench.write_config(methods=["ori", "sft", "fggm"], stages=stages, eval=evaluation)
    code, _, err = bench.run("run", "tiny.yaml")
    reason = "trace_fomc, document 7: an answer from logits that are no numbers"
    assert code == 0 and f"warning: trace_fomc: not measured: {reason}" in err, err
    stage = bench.results / "sft" / "seed-1" / "stage-1-trace_fomc"
    for file in bench.results.rglob("*.json*"):
        for text in (
            file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
        ):
            json.loads(text, parse_constant=no_constants)
    scores = json.loads((stage / "scores.json").read_text())
    assert scores["trace"]["trace_fomc"]["score"] is None and scores["op"] is None
    assert scores["trace"]["trace_fomc"]["not_measured"] == reason
    assert scores["general"]["mean"] is not None, "the rest is measured"
    assert "document 7" in scores["probes"]["trace"]["trace_fomc"]["nll"]["not_measured"]
    summary = json.loads((stage.parent / "summary.json").read_text())
    assert summary["op_final"]["not_measured"] == "trace_fomc after stage 1"
    out = " ".join(bench.must("report", "--full").split())
    lines = out.replace("- ", "-").replace(" -", "-")
    assert f"sft, seed 1, stage 1, FOMC: not measured: {reason}." in out
    assert "not measured (FOMC)" in lines and "sft-fggm" in lines, (
        "no ordering of what is not there"
    )
    before = (stage / "scores.json").read_bytes()
    assert bench.run("run", "tiny.yaml")[0] == 0 and (stage / "scores.json").read_bytes() == before
    shown = bench.must("diff", bench.results / "base", stage, "--show", "1")
    assert f"trace_fomc: not measured in B: {reason}." in shown


def test_sampled_answers_do_not_depend_on_what_was_scored_before(bench: Bench) -> None:
    rows = [{"prompt": f"Q{i}:", "answer": "A"} for i in range(4)]
    sampled = {"until": [], "do_sample": True, "temperature": 1.0}
    for name in ("first", "second"):
        own_task(bench.root / "own", rows, name, generation_kwargs=sampled)
    evaluation = {"general": {"after": "never"}, "probes": False}

    def answers(experiment: str, *stages: str) -> list[str]:
        settings = {"task_paths": ["own"], "methods": ["ori"], "eval": evaluation}
        bench.write_config(stages=[{"task": name} for name in stages], **settings)
        bench.must("run", "tiny.yaml", "-o", f"name={experiment}")
        file = bench.root / "results" / experiment / "base" / "predictions" / "second.jsonl"
        return [json.loads(line)["prediction"] for line in file.read_text().splitlines()]

    both, alone = answers("both", "first", "second"), answers("alone", "second")
    assert both == alone and len(set(both)) > 1, "they are sampled, and the same"


def test_two_evals_of_a_stage_do_not_write_at_once(bench: Bench) -> None:
    bench.trained()
    evals = bench.results / "sft/seed-1/stage-2-trace_numglue_ds" / "evals"
    asked = ("eval", "--stage", "2", "--method", "sft", "--task", "piqa")
    with locked(evals):
        code, _, err = bench.run(*asked)
    assert code == 2 and "another cl-bench is working here" in err
    assert not list(evals.glob("*/"))
    bench.must(*asked)
    with locked(evals):  # what is there is read, not written
        bench.must(*asked)
