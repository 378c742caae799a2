"""The relative numbers of a report, from a run of methods and their bounds."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import Bench


def test_methods_are_set_beside_each_other(bench: Bench) -> None:
    bench.write_config(methods=["ori", "sft", {"name": "mtl", "epochs": 1}, "single"])
    bench.trained()
    report = bench.must("report", "results/tiny", "--full")
    lines = report[report.index("## Relative numbers") :].splitlines()
    row = next(line for line in lines if line.startswith("| sft "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    own, joint, alone = (
        json.loads((bench.results / name / "seed-1/summary.json").read_text())
        for name in ("sft", "mtl", "single")
    )
    base = json.loads((bench.results / "base/scores.json").read_text())["general"]["mean"]
    general = own["general_final"]["general"]["value"]
    assert float(cells[1].split(" ")[0]) == pytest.approx(100 * general / base, abs=0.051)
    assert cells[2:4] == ["-", "-"], "nothing is beside itself"
    diagonal = own["learning_accuracy"]["value"]
    for cell, bound in ((cells[4], joint), (cells[5], alone)):
        expected = 100 * (bound["learning_accuracy"]["value"] - diagonal)
        assert float(cell.split(" ")[0]) == pytest.approx(expected, abs=0.051)
