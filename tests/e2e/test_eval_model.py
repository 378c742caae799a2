"""`cl-bench eval MODEL`: the scores of any folder, the same as a run's of the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from cl_bench.experiment import score_model
from tests.e2e.conftest import Bench
from tests.e2e.test_evals import cells
from tests.helpers.read import scores_of
from tests.helpers.templates import CHATML, chatting
from tests.helpers.tiny import tiny_model


def table(out: str) -> dict[str, list[str]]:
    """The cells of every task."""
    rows = [cells(line) for line in out.splitlines() if line.startswith("|")]
    assert rows[0] == ["task", "score", "n"]
    return {task: rest for task, *rest in rows[2:]}


def evaluate(bench: Bench, model: str | Path, *options: str) -> tuple[dict[str, list[str]], Path]:
    code, out, err = bench.run("eval", str(model), "--data-root", "data", *options)
    assert code == 0, err
    return table(out), Path(err.splitlines()[-1].rpartition(": ")[2])


def test_a_model_has_the_scores_of_the_run_that_left_it(bench: Bench) -> None:
    bench.write_config(methods=["sft", {"name": "lora", "lr": 1e-2}], checkpoints="delta")
    bench.trained()
    asked = ("--task", "piqa", "--limit", "4")
    places = {"model": bench.results / "base"}
    for method in ("sft", "lora"):
        stage = bench.results / method / "seed-1/stage-2-trace_numglue_ds"
        places[str(stage / "checkpoint")] = stage
    for model, place in places.items():
        found, folder = evaluate(bench, model, *asked)
        entry = scores_of(place)["general"]["piqa"]
        score, count = found["piqa"]
        assert score.startswith(f"{100 * entry['score']:.1f}") and count == "4"
        mine = (folder / "predictions/general_piqa.jsonl").read_text()
        assert mine == (place / "predictions/general_piqa.jsonl").read_text()


def test_what_is_scored_is_not_scored_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("--task", "piqa", "--task", "NumGLUE-ds", "--limit", "3", "--device", "cpu")
    first, folder = evaluate(bench, "model", *asked)
    assert first.keys() == {"piqa", "NumGLUE-ds", "mean"}
    with monkeypatch.context() as patch:
        patch.setattr(score_model, "any_model", None)
        assert evaluate(bench, "./model", *asked) == (first, folder)
    other, elsewhere = evaluate(bench, "model", *asked, "--dtype", "bfloat16")
    assert elsewhere != folder and other.keys() == first.keys()
    shown = bench.must("diff", str(folder), str(elsewhere), "--task", "piqa")
    assert "piqa" in shown


def test_an_adapter_of_another_program_is_scored_on_its_base(bench: Bench) -> None:
    model = AutoModelForCausalLM.from_pretrained(bench.root / "model", dtype=torch.float32)
    model.name_or_path = str(bench.root / "model")
    adapted: Any = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    for name, tensor in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, generator=torch.Generator().manual_seed(1))
    adapted.save_pretrained(bench.root / "adapter")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(bench.root / "merged")
    for file in (bench.root / "model").glob("tokenizer*"):
        (bench.root / "merged" / file.name).write_bytes(file.read_bytes())
    nll = []
    for name in ("adapter", "merged", "model"):
        _, folder = evaluate(bench, name, "--task", "piqa")
        lines = (folder / "predictions/general_piqa.jsonl").read_text().splitlines()
        nll.append([x for line in lines for x in json.loads(line)["loglikelihoods"]])
    assert nll[0] == pytest.approx(nll[1], abs=1e-3)
    assert nll[0] != pytest.approx(nll[2], abs=1e-2)
    code, _, err = bench.run(
        "eval", "adapter", "--task", "piqa", "--engine", "hf", "--engine-args", "subprocess=true"
    )
    assert code == 2 and "merge it" in err


def test_rows_of_a_file_are_scored(bench: Bench) -> None:
    rows = [{"question": f"{i}?", "answer": str(i)} for i in range(5)]
    (bench.root / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, folder = evaluate(bench, "model", "--task", "mine.jsonl", "--limit", "4")
    assert found["mine"][1] == "4"
    assert scores_of(folder)["general"]["mine"]["metrics"].keys() == {"exact_match", "rouge_l"}


def test_a_model_is_asked_in_its_chat_template(bench: Bench) -> None:
    """The same scores as a run's whose config says so; a template that is not used is said."""
    tiny_model(262).save_pretrained(bench.root / "model")
    chatting(CHATML).save_pretrained(bench.root / "model")
    model = {"path": "./model", "dtype": "float32", "chat_template": "auto"}
    bench.write_config(model=model, methods=["ori"])
    bench.must("run", "tiny.yaml")
    asked = ("--task", "piqa", "--limit", "4", "--data-root", "data")
    predictions = "predictions/general_piqa.jsonl"
    found = []
    for form in ("auto", "off"):
        code, _, err = bench.run("eval", "model", *asked, "--chat-template", form)
        assert code == 0 and ("template, which is not used" in err) == (form == "off"), err
        found.append(Path(err.splitlines()[-1].rpartition(": ")[2]))
    texts = [(folder / predictions).read_text() for folder in found]
    assert texts[0] == (bench.results / "base" / predictions).read_text() != texts[1]
    code, _, err = bench.run("eval", "model", *asked, "--chat-template", "nowhere.jinja")
    assert code == 2 and "nowhere.jinja: cannot be read" in err
    code, _, err = bench.run("eval", "tiny", "--stage", "1", "--chat-template", "auto")
    assert code == 2 and "--chat-template" in err
