"""Weights that are split over processes (FSDP2) train to what one process trains to."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cl_bench.cli import run_command
from cl_bench.costs.shapes import shapes_of
from cl_bench.costs.split import split_total
from cl_bench.costs.total import total
from cl_bench.methods.sft import SFT
from cl_bench.models.load import load_skeleton
from cl_bench.store.folders import StageFolder
from cl_bench.training import sharding
from cl_bench.training.selective_update import SelectiveUpdate
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.interrupting import at_update
from tests.helpers.launching import launched

CPU = {"ACCELERATE_USE_CPU": "true"}
ALONE = [
    {"name": "fggm", "alpha": 0.5, "aggregation": "output"},
    {"name": "ewc", "lambda": 1000},
    {"name": "replay", "ratio": 0.5},
]
METHODS = [
    "sft",
    {"name": "migu", "threshold": 0.5, "mask_first_task": True},
    {"name": "lora", "dropout": 0, "lr": 1e-3},
    {"compose": [{"name": "fggm", "alpha": 0.5}, "ewc", "replay"], "label": "all"},
]


def experiment(bench: Bench, methods: list[object]) -> None:
    """Three examples an update, one at a time: with two or four processes some have none."""
    bench.write_config(
        model={"path": "./model", "dtype": "float64"},
        methods=methods,
        stages=[{"task": "FOMC", "limit": 5}, {"task": "trace_numglue_ds", "limit": 4}],
        train={
            "lr": 1e-3,
            "batch_size": 3,
            "micro_batch_size": 1,
            "max_prompt_tokens": 64,
            "max_answer_tokens": 4,
        },
        eval={"trace": {"limit": 2}, "general": {"tasks": []}, "probes": False},
    )


def split(bench: Bench, world: int, name: str, *arguments: str) -> None:
    """A run by so many processes, each of which writes how many entries and bytes it held."""

    def work(rank: int) -> int:
        held: list[tuple[int, int]] = []
        engines: list[dict[str, int]] = []
        make = SelectiveUpdate.__init__

        def measured(engine, *given, **named):
            make(engine, *given, **named)
            engines.append(engine.nbytes())

        SelectiveUpdate.__init__ = measured
        shard = sharding.shard_model

        def counted(model, device, count, fetched):
            total = sum(p.numel() for p in model.parameters())
            shard(model, device, count, fetched)
            own = sum(p.numel() for p in sharding.parts_of(model.parameters()))
            held.append((total, own))

        from cl_bench.experiment import stage_training

        stage_training.shard_model = counted
        given = ["-o", f"name={name}", "-o", "train.shard=true", *arguments]
        code = run_command(["run", "tiny.yaml", *given])
        Path(f"{rank}.held").write_text(json.dumps(held))
        Path(f"{rank}.bytes").write_text(json.dumps(engines))
        return code

    ended = launched(bench.root, work, world, environment=CPU)
    assert [one.code for one in ended] == [0] * world, "".join(one.err[-3000:] for one in ended)
    for rank in range(world):
        for entries, own in json.loads((bench.root / f"{rank}.held").read_text()):
            assert own < 1.3 * entries / world, "the weights were not split"


def test_split_weights_train_as_whole_ones(bench: Bench) -> None:
    experiment(bench, METHODS)
    bench.must("run", "tiny.yaml", "-o", "name=one")
    split(bench, 2, "two")
    as_planned(bench.root, 2)
    compare(bench.root / "results", "two", ["sft", "migu", "lora", "all"])
    split(bench, 4, "four", "--method", "all", "-o", "train.gradient_checkpointing=true")
    compare(bench.root / "results", "four", ["all"])


def as_planned(root: Path, world: int) -> None:
    """What the engine of the first run, sft, held in each process, against the plan: within 5 %."""
    shapes = shapes_of(load_skeleton(root / "model")[0])
    whole = total(SFT(), replace(shapes, dtype_bytes=8))
    part = split_total(whole, replace(shapes, dtype_bytes=8), world).base
    planned = {"gradients": part.gradients, "optimiser": part.optimiser}
    for rank in range(world):
        measured = json.loads((root / f"{rank}.bytes").read_text())[0]
        for key, nbytes in planned.items():
            assert measured[key] == pytest.approx(nbytes, rel=0.05), key
        assert measured["weights"] < part.weights < whole.base.weights * 1.6
        own = part.unsplit.weights + (whole.base.weights - part.unsplit.weights) / world
        assert measured["weights"] == pytest.approx(own, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3, 4])
def test_every_method_with_split_weights(bench: Bench, world: int) -> None:
    """Each alone; three processes split rows unevenly."""
    experiment(bench, [*ALONE, *METHODS])
    bench.must("run", "tiny.yaml", "-o", "name=one")
    split(bench, world, "split")
    names = ["fggm", "ewc", "replay", "sft", "migu", "lora", "all"]
    compare(bench.root / "results", "split", names)


def test_an_interrupted_stage_goes_on(bench: Bench) -> None:
    """Where it was saved, to the same bytes: a Fisher and its anchor, a mask, an adapter."""
    experiment(
        bench, [{"compose": [{"name": "fggm", "alpha": 0.5}, "ewc"], "label": "all"}, "lora"]
    )
    given = ["run", "tiny.yaml", "-o", "train.shard=true", "-o", "save_every=1 updates"]

    def work(rank: int) -> int:
        return run_command(given)

    def stopped(rank: int) -> int:
        """A signal to both in the first update of two."""
        at_update(1, lambda: os.kill(os.getpid(), signal.SIGTERM), where)
        return work(rank)

    assert [one.code for one in launched(bench.root, work, 2, environment=CPU)] == [0, 0]
    whole = fingerprints(bench.results)
    shutil.rmtree(bench.results)
    for label in ("all", "lora"):
        where = f"{label}, seed 1, stage 2/2"
        ended = launched(bench.root, stopped, 2, environment=CPU)
        assert {one.code for one in ended} == {130}, "".join(one.err[-2000:] for one in ended)
        (saved,) = bench.results.glob(f"{label}/seed-1/stage-2*/midway/update-1")
        parts = sorted(file.name for file in saved.glob("engine*.safetensors"))
        assert parts == ["engine-0.safetensors", "engine-1.safetensors"]
    ended = launched(bench.root, work, 2, environment=CPU)
    assert [one.code for one in ended] == [0, 0], "".join(one.err for one in ended)
    assert "begins again" not in ended[0].err and fingerprints(bench.results) == whole


def test_what_needs_whole_weights_is_refused(bench: Bench) -> None:
    """By plan and run, all at once."""
    methods = ["agem", {"name": "fggm", "aggregation": "none"}, {"name": "ewc", "mode": "trace"}]
    experiment(bench, methods)
    for command in ("plan", "run"):
        code, _, err = bench.run(
            *(command, "tiny.yaml", "-o", "train.shard=true"),
            *("-o", "eval.within_stage.every=epoch"),
        )
        assert code == 2
        for word in (
            "agem needs whole weights",
            "aggregation: none",
            "mode: trace",
            "within_stage",
        ):
            assert word in err, err
        assert not (bench.root / "results").exists()


def compare(results: Path, name: str, methods: list[str]) -> None:
    """Weights, the state of methods, and scores, of both stages."""
    files = [
        file
        for method in methods
        for file in sorted((results / "one" / method).rglob("stage-*/checkpoint/*.safetensors"))
    ]
    assert len(files) == 2 * len(methods)
    for file in files:
        other = results / name / file.relative_to(results / "one")
        left, right = load_file(file), load_file(other)
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert float((value - right[key]).abs().max()) < 1e-9, f"{other}: {key}"
        config = file.parent / "config.json"
        if config.exists():
            same = (other.parent / "config.json").read_text() == config.read_text()
            assert same, "what transformers loads is another class"
        stage, others = file.parents[1], other.parents[1]
        scores = [json.loads((one / "scores.json").read_text()) for one in (stage, others)]
        assert scores[0]["trace"] == scores[1]["trace"]
        states = [StageFolder(one).method_state for one in (stage, others)]
        if any(part in str(file) for part in ("/ewc/", "/all/")):
            kept = [load_file(state) for state in states]
            assert kept[0].keys() == kept[1].keys()
            for key, value in kept[0].items():
                torch.testing.assert_close(kept[1][key], value, rtol=1e-9, atol=1e-12)
