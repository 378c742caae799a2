"""`cl-bench plot` of a run of three methods."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cl_bench.report.figures.catalogue import FIGURES
from cl_bench.report.figures.kinds import KINDS
from cl_bench.report.figures.places import shares_by_place
from cl_bench.results.selections import masks_alike
from cl_bench.training.selections import kept_selections
from tests.e2e.conftest import Bench


def test_methods_are_drawn(bench: Bench) -> None:
    bench.write_config(methods=["ori", "sft", {"name": "mtl", "epochs": 1}, "single"])
    bench.trained()
    assert bench.must("plot", "results/tiny", "--out", "stages.svg") == "stages.svg\n"
    drawn = bench.root / "stages.svg"
    texts = {element.text for element in ET.parse(drawn).iter() if element.text}
    assert {"OP, the mean over tasks so far", "General", "base model", "sft"} <= texts
    first = drawn.read_bytes()
    bench.must("plot", "results/tiny", "--out", "stages.svg")
    assert drawn.read_bytes() == first, "the same numbers give the same bytes"


def test_where_stages_trained_is_drawn(bench: Bench) -> None:
    bench.trained()
    run = bench.results / "fggm" / "seed-1"
    file = run / "stage-2-trace_numglue_ds" / "selection.safetensors"
    kept = kept_selections(load_file(file))
    own = kept["model.layers.1.mlp.up_proj.weight"]
    assert shares_by_place(kept)["1", "mlp.up_proj"] == own.trained / own.entries == 0.5
    assert not [module for layer, module in shares_by_place(kept) if not layer.isdecimal()]
    bench.must("plot", "tiny", "--figure", "places", "--out", "places.svg")
    drawn = (bench.root / "places.svg").read_text()
    assert "fggm: 2 NumGLUE-ds" in drawn and "self_attn.q_proj" in drawn


@pytest.mark.usefixtures("figures")
def test_likeness_is_drawn_as_inspect_computes_it(bench: Bench) -> None:
    bench.trained()
    first, second = (
        kept_selections(load_file(file))
        for file in sorted((bench.results / "fggm/seed-1").glob("stage-*/selection.safetensors"))
    )
    bench.must("report", "tiny")
    assert "(report-figures/masks.svg)" in (bench.results / "report.md").read_text()
    drawn = (bench.results / "report-figures/masks.svg").read_text()
    texts = re.findall(r">([^<>]+)</text>", drawn)
    found = masks_alike(first, second, "rows")
    assert f"rows trained, chance {found.chance:.2f}" in texts and f"{found.value:.2f}" in texts
    bench.must("plot", "tiny", "--figure", "masks", "--out", "masks.svg")
    assert re.findall(r">([^<>]+)</text>", (bench.root / "masks.svg").read_text()) == texts
    file = next((bench.results / "fggm").rglob("selection.safetensors"))
    file.write_bytes(file.read_bytes()[:-4])
    code, _, err = bench.run("report", "tiny")
    assert code == 1 and "selection.safetensors" in err
    assert "masks" not in (bench.results / "report.md").read_text()
    assert "(report-figures/stages.svg)" in (bench.results / "report.md").read_text()


def test_what_lacks_data_is_not_drawn_and_says_what_it_needs(bench: Bench) -> None:
    bench.trained("--method", "sft")
    code, _, err = bench.run("plot", "tiny", "--figure", "places")
    assert code == 2 and "it needs a stage that kept a selection of what it trained" in err
    code, _, err = bench.run("plot", "tiny", "--figure", "matrices")
    assert code == 2 and "did you mean 'matrix'?" in err
    listed = bench.must("plot", "--figure", "list").splitlines()
    assert [line.split()[0] for line in listed] == [kind.name for kind in KINDS] == [*FIGURES]
    page = (Path(__file__).resolve().parents[2] / "docs/reports.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| (?!the change)", page, re.M)[-len(FIGURES) :] == [*FIGURES]


def test_a_figure_has_a_known_kind(bench: Bench) -> None:
    code, _, err = bench.run("plot", "results/tiny", "--out", "front.txt")
    assert code == 2 and "--out front.txt: a figure ends in .png, .svg or .pdf" in err
