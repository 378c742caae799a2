"""Every method that is shipped, from the config to scores, in one experiment of two stages."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cl_bench.config.schema import slug
from cl_bench.methods.registry import METHODS, method_class
from cl_bench.store.folders import verify_folder
from tests.e2e.conftest import Bench, fingerprints

OPTIONS: dict[str, dict[str, Any]] = {
    "recadam": {"gamma": 100, "t0": 1},
    "block_expansion": {"every": 1},
}
"""Of methods that with their defaults would do nothing, or much, on a few examples and layers."""
ROWS = {"mtl": [2], "single": [1, 1]}
"""How many tasks are scored after each stage; all others go on from stage to stage."""
COMPOSED = {"compose": ["fggm", {"name": "replay", "ratio": [0.5, 1]}], "label": "composed"}
MERGED = {"name": "lora", "incremental": True, "init": "pissa", "label": "merged"}
STAGES = [{"task": "trace_fomc", "limit": 4}, {"task": "trace_numglue_ds", "limit": 4}]


def test_every_method_trains_and_is_scored_once(bench: Bench) -> None:
    entries = [{"name": name, **OPTIONS.get(name, {})} for name in METHODS]
    scored = {"trace": {"limit": 2}, "general": {"after": "never"}}
    bench.write_config(methods=[*entries, COMPOSED, MERGED], stages=STAGES, eval=scored)
    screen = bench.must("run", "tiny.yaml")
    table = bench.must("report", "tiny", "--full")
    base = _weights(bench.root / "model")
    for label in (*METHODS, "composed ratio=0.5", "composed ratio=1", "merged"):
        assert f"| {label} " in table
        folder = bench.results / slug(label) / "seed-1"
        assert (folder / "summary.json").is_file() and (folder / "run.json").is_file()
        stages, rows = sorted(folder.glob("stage-*")), ROWS.get(label, [1, 2])
        for stage, count in zip(stages, rows, strict=True):
            _is_complete(stage, count, label)
        moved = [
            not torch.equal(value, base[name])
            for name, value in _weights(stages[-1] / "checkpoint").items()
            if name in base
        ]
        assert any(moved) or not moved, f"{label} trained nothing"  # none: an adapter
    complete = fingerprints(bench.results)
    written = _times(bench.results)
    assert bench.must("run", "tiny.yaml") == screen
    assert fingerprints(bench.results) == complete and _times(bench.results) == written


def test_every_method_says_what_it_is() -> None:
    """`cl-bench methods` shows both."""
    for name in METHODS:
        own = vars(method_class(name))  # not what it inherits from another method
        assert own.get("family") and own.get("source"), f"{name}: set `family` and `source`"


def _is_complete(stage: Path, count: int, label: str) -> None:
    """All files of a stage with `count` tasks so far, every number in them finite."""
    scores = json.loads((stage / "scores.json").read_text())
    assert len(scores["trace"]) == count
    for task in scores["trace"]:
        answers = (stage / "predictions" / f"{task}.jsonl").read_text().splitlines()
        assert len(answers) == scores["trace"][task]["n"] == 2
        assert math.isfinite(scores["trace"][task]["score"])
    updates = [json.loads(line) for line in (stage / "train.jsonl").read_text().splitlines()]
    assert updates and all(update["grad_norm"] > 0 for update in updates), label
    assert (stage / "notes.json").is_file() and (stage / "timing.json").is_file()
    assert _weights(stage / "checkpoint")
    verify_folder(stage / "checkpoint")
    left = [file.name for file in stage.glob("method*")]
    if label in METHODS and method_class(label).keeps == "nothing":
        assert not left, f"{label} says that it keeps nothing, and hands on {left}"
    assert not [file for file in stage.iterdir() if "scratch" in file.name or ".tmp" in file.name]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def _times(results: Path) -> dict[str, int]:
    """When the files were written that cost something to make."""
    names = ("scores.json", "train.jsonl", "model.safetensors", "timing.json")
    return {str(p): p.stat().st_mtime_ns for p in results.rglob("*") if p.name in names}
