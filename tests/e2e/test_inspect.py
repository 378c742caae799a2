"""`cl-bench inspect` of a run: what stages left behind, and what it says without it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.probes.kl import Text
from cl_bench.evaluation.suite import load_suite
from cl_bench.experiment.drift import fixed_texts
from cl_bench.experiment.rescore import recorded_experiment
from cl_bench.results.selections import halves_alike
from cl_bench.training.selections import kept_selections
from tests.e2e.conftest import Bench
from tests.helpers.rendered import must_render
from tests.helpers.tiny import byte_tokenizer

STAGES = ("stage-1-trace_fomc", "stage-2-trace_numglue_ds")


def test_inspect(bench: Bench) -> None:
    bench.trained()
    run = bench.results / "fggm" / "seed-1"
    weights = [load_file(run / stage / "checkpoint" / "model.safetensors") for stage in STAGES]
    kept = kept_selections(load_file(run / STAGES[1] / "selection.safetensors"))
    rows = 0
    for name, one in kept.items():
        if one.kind == "rows":  # what moved in the stage is what it says that it trained
            moved = (weights[0][name] != weights[1][name]).any(1)
            assert not (moved & ~one.chosen).any() and one.scores["rows"].shape == moved.shape
            rows += int(moved.sum())
    assert rows > 20
    assert not (bench.results / "sft" / "seed-1" / STAGES[0] / "selection.safetensors").exists()
    text = bench.must("inspect", "tiny", "--method", "fggm", "--plot", "likeness.png")
    layers, modules, itself, alike, moved = must_render(text)
    assert layers[0] == ["layer", "1 FOMC", "2 NumGLUE-ds"] and layers[1][0] == "0"
    assert next(row for row in modules if row[0] == "self_attn.q_proj")[1] == "50.0"
    assert alike[1][0] == "1 FOMC - 2 NumGLUE-ds"
    own = halves_alike(kept, "rows")
    ranks, masks = f"{own.ranks:+.2f}, {own.reliability:+.2f}", own.masks
    assert itself[2] == ["2 NumGLUE-ds", f"{masks.value:.2f} ({masks.chance:.2f})", *itself[2][2:]]
    assert itself[0][3] == "scores of rows" and itself[2][3] == ranks
    first = kept_selections(load_file(run / STAGES[0] / "selection.safetensors"))
    most = math.sqrt(halves_alike(first, "rows").reliability * own.reliability)
    assert alike[1][3].endswith(f" of {most:+.2f}")
    name = "model.layers.0.mlp.up_proj.weight"
    own = [w for n, w in weights[1].items() if n.startswith("model.layers.0.")]
    old = [w for n, w in weights[0].items() if n.startswith("model.layers.0.")]
    change = sum(float((a - b).double().square().sum()) for a, b in zip(own, old, strict=True))
    size = sum(float(b.double().square().sum()) for b in old)
    assert name in weights[0] and moved[1] == ["0", moved[1][1], f"{(change / size) ** 0.5:.2e}"]
    assert (bench.root / "likeness.png").read_bytes()[:4] == b"\x89PNG"
    shutil.rmtree(run / STAGES[0] / "checkpoint")
    without = bench.must("inspect", "tiny", "--method", "fggm")
    assert "weights not compared: stage-2-trace_numglue_ds" in without
    plain = bench.must("inspect", "tiny", "--method", "sft")
    assert "No stage kept a selection" in plain and "How far weights moved" in plain


def test_a_selection_that_was_changed_is_refused(bench: Bench) -> None:
    bench.trained()
    file = bench.results / "fggm" / "seed-1" / STAGES[0] / "selection.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, _, err = bench.run("inspect", "tiny")
    assert code == 1 and f"{STAGES[0]}/{file.name}: not as it was written" in err
    code, _, err = bench.run("inspect", "tiny", "--plot", "x.txt")
    assert code == 2 and "--plot x.txt: a figure ends in .png, .svg or .pdf" in err


def states_of(folder: Path, texts: list[Text]) -> list[torch.Tensor]:
    """Inputs of the layers and of the head, float64 [positions, D], by hooks."""
    model: Any = LlamaForCausalLM.from_pretrained(folder).eval()
    seen: list[list[torch.Tensor]] = [[], [], []]
    for i, module in enumerate((*model.model.layers, model.lm_head)):
        module.register_forward_pre_hook(
            lambda _, args, kwargs, i=i: seen[i].append((*args, *kwargs.values())[0][0]),
            with_kwargs=True,
        )
    with torch.no_grad():
        for text in texts:
            model(input_ids=torch.tensor([text.ids]), use_cache=False)
    return [
        torch.cat([s[list(text.positions)] for s, text in zip(own, texts, strict=True)]).double()
        for own in seen
    ]


def test_drift_of_hidden_states(bench: Bench) -> None:
    bench.trained()
    run = bench.results / "sft" / "seed-1"
    suite = load_suite(recorded_experiment(bench.results), Engine("cl-bench"))
    base = LlamaForCausalLM.from_pretrained(bench.root / "model")
    texts = fixed_texts(suite, base, byte_tokenizer())
    # 32 texts of 3 tasks: 11 each are wanted, and all that are scored are there.
    assert {task: len(own) for task, own in texts.items()} == {
        "piqa": 4,
        "trace_fomc": 6,
        "trace_numglue_ds": 6,
    }
    kept = [text for own in texts.values() for text in own]
    assert all(0 not in text.positions and len(text.positions) <= 32 for text in kept)
    states = [states_of(bench.root / "model", kept)]
    states += [states_of(run / stage / "checkpoint", kept) for stage in STAGES]
    found = json.loads(bench.must("inspect", "tiny", "--method", "sft", "--drift", "--json"))
    assert found["drift"]["documents"] == {"piqa": 4, "trace_fomc": 6, "trace_numglue_ds": 6}
    assert found["drift"]["positions"] == len(states[0][0])
    own = found["drift"]["runs"]["sft/seed-1"]
    for stage, before, after in ((0, 0, 1), (1, 1, 2)):
        for name, start in (("base", 0), ("before", before)):
            for layer in range(3):
                x, y = states[start][layer].tolist(), states[after][layer].tolist()
                moved = [
                    sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5
                    / sum(p * p for p in a) ** 0.5
                    for a, b in zip(x, y, strict=True)
                ]
                measured = own[STAGES[stage]][name][layer]["relative"]
                assert measured == pytest.approx(sum(moved) / len(moved), rel=1e-4)
    text = bench.must("inspect", "tiny", "--drift", "--plot", "drift.svg")
    tables = must_render(text)
    cosine = next(t for t in tables if t[0][0].startswith("1 - cosine"))
    assert cosine[0][1:] == ["1 FOMC", "2 NumGLUE-ds"] and [row[0] for row in cosine[1:]] == [
        *"012"
    ]
    assert "linear CKA" in (bench.root / "drift.svg").read_text()
    shutil.rmtree(run / STAGES[0] / "checkpoint")
    code, out, err = bench.run("inspect", "tiny", "--drift")
    assert code == 2 and not out
    assert "sft, seed-1: --drift:" in err and "the checkpoint is not there any more" in err
    code, _, err = bench.run("inspect", "tiny", "--json")
    assert code == 2 and "--json: has what --drift and --fisher measure" in err


def test_estimates_of_the_fisher(bench: Bench) -> None:
    bench.trained()
    asked = ("inspect", "tiny", "--method", "fggm", "--fisher", "2", "--examples", "8")
    found = json.loads(bench.must(*asked, "--json"))["fisher"]
    assert found["stage"] == 2
    (rows,) = found["runs"].values()
    assert [(row["estimate"], row["examples"]) for row in rows] == [
        ("per example", 1),
        ("per example", 2),
        ("per example", 4),
        ("per example, two halves", 4),
        ("batches of 4", 8),
    ]
    assert all(0 <= row["jaccard"] <= 1 and 0.15 < row["chance"] < 0.25 for row in rows)
    table = must_render(bench.must(*asked))[-1]
    assert table[0] == ["estimate", "examples", "rows trained", "ranks"] and len(table) == 6
    code, _, err = bench.run("inspect", "tiny", "--fisher", "3")
    assert code == 2 and "--fisher 3: it has no stage 3" in err
    shutil.rmtree(bench.results / "fggm" / "seed-1" / STAGES[0] / "checkpoint")
    code, _, err = bench.run(*asked)
    assert code == 2 and "--fisher 2: the model that the stage began with" in err
