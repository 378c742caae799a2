"""The room that a run needs, as `cl-bench plan` and the check before the start count it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cl_bench.costs.model_shapes import model_shapes
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.suite import load_suite
from cl_bench.experiment.disk import (
    missing_bytes,
    prediction_bytes,
    reference_bytes,
    stored_sizes,
)
from cl_bench.experiment.resolve import resolve_file
from cl_bench.experiment.space import kept_bytes
from cl_bench.experiment.workload import Workloads, stage_total
from cl_bench.progress import Reporter
from tests.e2e.conftest import Bench

GENERATORS = 7560
"""Bytes of the states of the global random generators, which every save holds."""


def size(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.rglob(pattern))


def test_what_is_counted_is_what_is_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write_config(
        methods=["sft", "ewc", "lora", {"name": "fggm", "aggregation": "none"}, "der"],
        eval={
            "trace": {"limit": 6},
            "general": {"tasks": ["piqa"]},
            "probes": {"kl_texts": 6, "kl_task_texts": 2, "kl_positions": 2},
        },
    )
    experiment = resolve_file(str(bench.config))
    config, runs = experiment.config, experiment.runs
    shapes = model_shapes(config.model).shapes
    assert shapes is not None
    suite = load_suite(experiment, Engine("cl-bench"))

    def missing() -> int:
        return missing_bytes(experiment, suite, shapes, bench.results)

    needed = missing()
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, needed - 1)
    )
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 2 and "free some" in err and not bench.results.exists()
    monkeypatch.undo()
    monkeypatch.chdir(bench.root)
    bench.must("run", "tiny.yaml")

    kept = size(bench.results / "base" / "kl", "*.safetensors")
    assert reference_bytes(config.eval, shapes, len(suite.columns)) == pytest.approx(kept, rel=0.2)
    weights = size(bench.results, "*.safetensors") - kept
    counted = sum(
        stage_total(run, position, shapes, Workloads(config)).checkpoint
        for run in runs
        for position in range(2)
    )
    assert counted == pytest.approx(weights, rel=0.1)
    states = size(bench.results / "ewc", "method.safetensors")
    fisher = 2 * runs[1].stages[0].cost(shapes).added.disk.state
    assert fisher == pytest.approx(states, rel=0.1) and fisher == 2 * 4 * shapes.numel
    der = next(run for run in runs if run.label == "der")
    for position in range(2):
        cost = stage_total(der, position, shapes, Workloads(config))
        folder = bench.results / "der" / "seed-1" / der.stages[position].folder
        written = (folder / "method.safetensors").stat().st_size
        assert cost.state == pytest.approx(written, rel=0.1)
    base = suite.units(suite.columns, True, config.train)
    written = size(bench.results / "base", "predictions/*.jsonl")
    assert written <= prediction_bytes(base) <= 4 * written

    assert missing() == 0
    stage = bench.results / "ewc" / "seed-1" / "stage-2-trace_numglue_ds"
    (stage / "scores.json").unlink()
    assert missing() == prediction_bytes(base)  # the last row of the matrix has every column
    shutil.rmtree(stage)
    cost = runs[1].stages[1].cost(shapes)
    assert missing() == prediction_bytes(base) + cost.checkpoint + 2 * cost.midway


@pytest.mark.parametrize("method", ["sft", "fggm", "ewc", "lora"])
def test_what_is_saved_in_the_middle_of_a_stage(bench: Bench, method: str) -> None:
    bench.write_config(methods=[method], save_every="2 updates")
    experiment = resolve_file(str(bench.config))
    shapes = model_shapes(experiment.config.model).shapes
    assert shapes is not None
    seen: list[int] = []

    def look(reporter: Reporter, record: object, total: int) -> None:
        for folder in bench.results.glob("*/*/stage-2*/midway/update-*"):
            seen.append(size(folder, "*.safetensors"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reporter, "step", look)
        bench.must("run", "tiny.yaml")
    assert seen and not list(bench.results.rglob("midway"))
    counted = experiment.runs[0].stages[1].cost(shapes, 1).midway
    assert counted == pytest.approx(max(seen) - GENERATORS, rel=0.1)


@pytest.mark.parametrize("keep", ["all", "last", pytest.param("scores", marks=pytest.mark.slow)])
def test_deltas_and_what_is_deleted_are_counted(bench: Bench, keep: str) -> None:
    """At most what is written, at least what lies there at any time."""
    fggm = {"name": "fggm", "alpha": 0.7}
    bench.write_config(methods=[fggm, "lora"], keep=keep, checkpoints="delta")
    experiment = resolve_file(str(bench.config))
    config = experiment.config
    shapes = model_shapes(config.model).shapes
    assert shapes is not None
    suite = load_suite(experiment, Engine("cl-bench"))
    before = missing_bytes(experiment, suite, shapes, bench.results)
    most, left = 0, 0
    for run in experiment.runs:
        totals = [stage.cost(shapes, i) for i, stage in enumerate(run.stages)]
        sizes = stored_sizes(run, totals, config)
        end, at_once = kept_bytes(run.stages, sizes, keep)
        most, left = max(most, left + at_once), left + end
        assert end <= at_once <= sum(sizes)
    seen: list[int] = []

    def look(reporter: Reporter, what: str) -> None:
        seen.append(sum(size(f, "*.safetensors") for f in bench.results.rglob("checkpoint")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reporter, "scoring", look)
        bench.must("run", "tiny.yaml")
    slack = 1500 * len(seen)  # names in the headers of files, which nobody counts
    assert max(seen) <= most + slack and most < before
    last = sum(size(f, "*.safetensors") for f in bench.results.rglob("checkpoint"))
    assert 0.4 * left <= last <= left + slack
    if keep == "all":
        written = size(bench.results / "fggm", "*.safetensors")
        assert written < 0.35 * 4 * 2 * shapes.numel + slack
    assert missing_bytes(experiment, suite, shapes, bench.results) == 0
