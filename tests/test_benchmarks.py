"""What benchmark scripts make of their measurements; the measuring itself is not for a suite."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """The module that the test's `indirect` parameter names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(request.param)


@pytest.mark.parametrize("script", ["growth"], indirect=True)
def test_growth_knows_a_line_from_a_square(script: ModuleType, tmp_path: Path) -> None:
    sizes = [1.0, 2.0, 4.0, 8.0]
    assert script.exponent(sizes, [3 * n**2 for n in sizes]) == pytest.approx(2.0)
    assert script.exponent(sizes, [5.0 * n for n in sizes]) == pytest.approx(1.0)
    assert script.fixed_share(sizes, [8 + n for n in sizes]) == pytest.approx(0.5)
    assert script.fixed_share(sizes, [n - 0.5 for n in sizes]) == 0.0
    part = script.Part("square", "things", "s", (2, 4, 8), lambda n: float(n * n))
    found = script.measured(part)
    assert script.row(found)[3:] == ["2.00", "1.00", "0.00"]
    script.plot([found], tmp_path / "figure.svg")
    assert "square: p = 2.00" in (tmp_path / "figure.svg").read_text()


@pytest.mark.parametrize("script", ["pipeline"], indirect=True)
def test_the_pipeline_compares_wholes_and_parts(script: ModuleType) -> None:
    def seen(seconds: float, marks: list[float]) -> object:
        documents = {f"mini_piqa/{i}": mark for i, mark in enumerate(marks)}
        found = [script.Found({"mini_piqa": 0.25}, documents) for _ in range(2)]
        one = script.Seen(found=found)
        one.seconds["train"] = one.seconds["score"] = seconds
        one.work["train"] = 2 * seconds
        one.peak["train"] = 3 * 10**9
        return one

    found = {
        "cl-bench sft": seen(5.0, [1.0] * 6 + [0.0] + [0.5] * 3),
        "Trainer + hf": seen(20.0, [0.0] * 6 + [1.0] + [0.5] * 3),
    }
    lines = script.report(found).splitlines()
    assert lines[0].startswith("|  | s, CPU s | x Trainer + hf | train: s, CPU s, GB")
    assert lines[2].startswith("| cl-bench sft | 10, 10 | 0.25, 0.25 | 5, 10, 3.00 | 0, 0, 0.00 |")
    assert "| Trainer + hf | 25.0 |" in lines
    # 6 of 7 signs alike: 2 * (1 + 7) / 2^7.
    assert "| Trainer + hf | the last stage | 10 | 6 | 1 | 0.12 |" in lines
    assert "| Trainer + hf | base and all stages | 20 | 12 | 2 | 0.01 |" in lines
    kept = json.loads(json.dumps({k: dataclasses.asdict(v) for k, v in found.items()}))
    assert script.seen_again(kept["cl-bench sft"]) == found["cl-bench sft"]


@pytest.mark.parametrize("script", ["pipeline"], indirect=True)
def test_the_pipeline_reads_what_a_run_is_at(script: ModuleType, tmp_path: Path) -> None:
    assert script.of_status(tmp_path) == script.of_events(tmp_path) == "other"
    folder = tmp_path / "results" / "pipeline"
    folder.mkdir(parents=True)
    for doing, part in (("training", "train"), ("saving", "save"), ("reading", "other")):
        (folder / "status.json").write_text(json.dumps({"status": {"doing": doing}}))
        assert script.of_status(tmp_path) == part
    with importlib.import_module("pipeline_script").part("score", tmp_path / "events.jsonl"):
        assert script.of_events(tmp_path) == "score"
    assert script.of_events(tmp_path) == "other"


def test_the_script_for_cards_names_what_there_is() -> None:
    """Files, and options that their own `--help` would show."""
    file = BENCHMARKS / "gpu.sh"
    text = file.read_text()
    for name in re.findall(r"benchmarks/(\w+\.py)", text):
        source = (BENCHMARKS / name).read_text() + (BENCHMARKS / "side_by_side.py").read_text()
        line = next(line for line in text.splitlines() if f"benchmarks/{name}" in line)
        for option in re.findall(r"--[a-z-]+", line):
            assert f'"{option}"' in source, (name, option)
    assert (BENCHMARKS.parent / "tests" / "device" / "test_device.py").is_file()
    help_ = subprocess.run([str(file), "--help"], capture_output=True, text=True, check=True)
    assert "--engine-python PATH" in help_.stdout and "set -u" not in help_.stdout
    assert subprocess.run([str(file), "--fast"], capture_output=True, check=False).returncode == 2


@pytest.fixture(autouse=True)
def forget_scripts() -> object:
    """Their names are common ones."""
    yield
    for name in ("growth", "pipeline", "pipeline_script", "side_by_side"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("script", ["gate"], indirect=True)
def test_the_gate_s_draws_have_the_drop_that_is_planted(script: ModuleType) -> None:
    pairs = np.array([[1, 1]] * 500 + [[1, 0]] * 60 + [[0, 1]] * 20 + [[0, 0]] * 220)
    generator = np.random.default_rng(1)
    for drop in (0.0, 0.1):
        found = np.mean([script.draw(pairs, drop, generator) for _ in range(200)], axis=(0, 1))
        assert found[0] - found[1] == pytest.approx(drop, abs=0.005)
    assert script.gates(pairs, 1, 0.06, [0.0], 40).fails == 0
    lost = script.gates(pairs, 2, 0.06, [0.3, 0.3], 10)
    assert lost.fails == 1 and lost.passes == 0 and lost.documents < 0.6
    assert 0.06 < script.announced(pairs, 1, 0.06, 10) < script.announced(pairs, 2, 0.06, 10) < 0.2
    threshold, unpaired = script.rules(pairs, 0.0, 200)
    assert 0.05 < threshold < 0.35 and unpaired < 0.05


@pytest.mark.parametrize("script", ["scaling"], indirect=True)
def test_the_page_on_scaling_has_the_tables_of_its_script(script: ModuleType) -> None:
    text = (BENCHMARKS.parent / "docs" / "scaling.md").read_text()
    tables = script.page().split("\n\n")
    assert len(tables) == 7 and all(f"\n\n{table}\n\n" in text for table in tables)


@pytest.mark.parametrize("script", ["scaling"], indirect=True)
def test_scaling_counts_what_a_person_would(script: ModuleType) -> None:
    """`sft` of 7B: 4 bytes a gradient, 2 a weight; 2 forwards and a backward pass of products."""
    case = next(c for c in script.cases() if (c.model, c.method) == ("Qwen2-7B", "sft"))
    entries, products = 7_615_616_512, 6_525_288_448
    assert case.shapes.numel == entries and case.shapes.products == products
    assert case.messages(8) == pytest.approx(2 * 7 / 8 * 4 * entries)
    assert case.sharded_messages(8) == pytest.approx(4 * 7 / 8 * (2 * 2 + 4) * entries)
    rate = 0.4 * 989e12
    assert case.compute(8) == pytest.approx(4 * 2048 * 8 * products / rate)
    assert case.compute(64) == case.compute(32) == pytest.approx(2048 * 8 * products / rate)
    sent = case.messages(16) / 12.5e9 + 2 * 15 * 20e-6
    assert case.seconds(16, False, 12.5e9) == pytest.approx(case.compute(16) + sent)
    vectors = case.cost.base.unsplit
    cut = case.cost.memory - vectors.weights - vectors.gradients - vectors.optimiser
    assert case.sharded(4) - case.sharded(8) == pytest.approx(cut / 8)
