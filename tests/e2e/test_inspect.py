"""`cl-bench inspect` of a run: what stages left behind, and what it says without it."""

from __future__ import annotations

import math
import shutil

from safetensors.torch import load_file

from cl_bench.results.selections import halves_alike
from cl_bench.training.selections import kept_selections
from tests.e2e.conftest import Bench
from tests.helpers.rendered import must_render

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
