"""`cl-bench plot` of a run of three methods."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from safetensors.torch import load_file

from cl_bench.report.places_figure import shares_by_place
from cl_bench.training.selections import kept_selections
from tests.e2e.conftest import Bench


def test_methods_are_drawn(bench: Bench) -> None:
    bench.write_config(methods=["ori", "sft", {"name": "mtl", "epochs": 1}, "single"])
    bench.trained()
    assert bench.must("plot", "results/tiny", "--out", "front.svg") == "front.svg\n"
    drawn = bench.root / "front.svg"
    texts = {element.text for element in ET.parse(drawn).iter() if element.text}
    assert {"OP, the mean over tasks so far", "General", "ori", "sft", "mtl"} <= texts
    first = drawn.read_bytes()
    bench.must("plot", "results/tiny", "--out", "front.svg")
    assert drawn.read_bytes() == first, "the same numbers give the same bytes"


def test_where_stages_trained_is_drawn(bench: Bench) -> None:
    bench.trained()
    run = bench.results / "fggm" / "seed-1"
    file = run / "stage-2-trace_numglue_ds" / "selection.safetensors"
    kept = kept_selections(load_file(file))
    own = kept["model.layers.1.mlp.up_proj.weight"]
    assert shares_by_place(kept)["1", "mlp.up_proj"] == own.trained / own.entries == 0.5
    assert not [module for layer, module in shares_by_place(kept) if not layer.isdecimal()]
    bench.must("plot", "tiny", "--places", "--out", "places.svg")
    drawn = (bench.root / "places.svg").read_text()
    assert "fggm, seed-1: 2 NumGLUE-ds" in drawn and "self_attn.q_proj" in drawn


def test_without_a_selection_there_are_no_places(bench: Bench) -> None:
    bench.trained("--method", "sft")
    code, _, err = bench.run("plot", "tiny", "--places")
    assert code == 2 and "no stage kept a selection of what it trained" in err


def test_a_figure_has_a_known_kind(bench: Bench) -> None:
    code, _, err = bench.run("plot", "results/tiny", "--out", "front.txt")
    assert code == 2 and "--out front.txt: a figure ends in .png, .svg or .pdf" in err
