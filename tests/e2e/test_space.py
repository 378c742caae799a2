"""`keep:` and `checkpoints: delta`: less on disk, and nothing that is different."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cl_bench.models.deltas import check_whole, write_whole
from tests.e2e.conftest import Bench, fingerprints

THREE = [
    {"task": "NumGLUE-ds", "epochs": 1, "limit": 8},
    {"task": "FOMC", "epochs": 2, "limit": 8},
    {"task": "mini_fomc", "epochs": 1, "limit": 8, "test_limit": 3},
]
METHODS: list[Any] = [
    "sft",
    {"name": "fggm", "alpha": 0.7, "label": "rows"},
    {"name": "fggm", "alpha": 0.7, "aggregation": "output", "label": "columns"},
    {"name": "fggm", "alpha": 0.7, "aggregation": "none", "label": "entries"},
    {"name": "piece", "ratio": 0.01},
    "layernorm",
    {"name": "lora", "lr": 1e-3},
    {"name": "block_expansion", "every": 1, "blocks": "new"},
    {"name": "ties", "density": 0.5},
]
DELTAS = ("delta.json", "model.delta.safetensors", "model.safetensors")


def wholes(results: Path, scratch: Path) -> dict[str, dict[str, str]]:
    """The files of every folder of weights as they are when it is made whole."""
    found = {}
    for folder in sorted([*results.rglob("checkpoint"), *results.rglob("scored")]):
        name = str(folder.relative_to(results))
        target = scratch / name
        target.mkdir(parents=True)
        write_whole(folder, target)
        found[name] = fingerprints(target)
    return found


def test_deltas_are_the_same_run(bench: Bench, tmp_path: Path) -> None:
    bench.write_config(
        methods=METHODS, stages=THREE, eval={"trace": {"limit": 2}, "general": {"after": "never"}}
    )
    bench.must("run", "tiny.yaml", "-o", "name=full")
    bench.must("run", "tiny.yaml", "-o", "checkpoints=delta")
    full, delta = bench.results.with_name("full"), bench.results
    for p in sorted(delta.rglob("delta.json")):
        d = json.loads(p.read_text())
        forms = {}
        for e in d["weights"]["model.safetensors"]["tensors"].values():
            forms[e["form"]] = forms.get(e["form"], 0) + 1
        print(
            p.relative_to(delta),
            d["base"],
            forms,
            (p.parent / "model.delta.safetensors").stat().st_size
            / json.loads((p.parent / "manifest.json").read_text())["model.safetensors"]["bytes"],
        )
    assert wholes(full, tmp_path / "a") == wholes(delta, tmp_path / "b")
    first = {n: h for n, h in fingerprints(full).items() if not n.endswith(DELTAS)}
    second = {n: h for n, h in fingerprints(delta).items() if not n.endswith(DELTAS)}
    print([n for n in first if first[n] != second.get(n)])
    assert first == second
    print(bench.must("verify", "tiny"))
