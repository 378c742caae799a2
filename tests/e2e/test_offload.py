"""What `train.offload` keeps in main memory trains to what a run without it trains to.

There is no card here. The CPU takes the part of one: the check that it would do nothing is left
out, and gradients and masters are said to be on another device than the weights (`cpu:0`), so that
they go there as they do from a card. `tests/device/test_offload.py` has a device that really is
another one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch

from cl_bench.cli import run_command
from cl_bench.config.schema import TrainConfig
from cl_bench.costs.offload import held_total
from cl_bench.costs.shapes import shapes_of
from cl_bench.costs.total import total
from cl_bench.experiment import loop
from cl_bench.methods import static_checks
from cl_bench.methods.sft import SFT
from cl_bench.models.load import load_skeleton
from cl_bench.training import sharding
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.sharding import is_split, own_part
from tests.e2e.conftest import Bench
from tests.e2e.test_shard import compare, experiment
from tests.helpers.forked import watched

COMPOSED = {"compose": [{"name": "fggm", "alpha": 0.5}, "ewc", "replay"], "label": "all"}
METHODS = [
    "sft",
    {"name": "migu", "threshold": 0.5, "mask_first_task": True},
    {"name": "lora", "dropout": 0, "lr": 1e-3},
    COMPOSED,
]


@dataclass
class Engine:
    """How many parameters' gradients go elsewhere, of how many; bytes by rows, and held."""

    away: int
    trained: int
    rows: int
    held: dict[str, int]


def in_another_process(bench: Bench, parts: str) -> tuple[list[Engine], set[str]]:
    """Engines of a run with these parts in main memory, and policies of its split weights.

    One process alone is connected to itself for split weights, which no fork should inherit.
    """
    engines: list[Engine] = []
    policies: set[str] = set()
    shard = sharding.fully_shard

    class Elsewhere(SelectiveUpdate):
        def __init__(self, *given, state=None, **named):
            other = None if state is None else torch.device("cpu", 0)
            super().__init__(*given, state=other, **named)
            away = sum(leaf.grad is None for leaf in self._leaves.values())
            rows = sum(own_part(p).nbytes for p in self.model.parameters() if is_split(p))
            engines.append(Engine(away, len(self.grads), rows, self.nbytes()))

    def fully_shard(module, **named):
        policies.add(type(named["offload_policy"]).__name__)
        return shard(module, **named)

    def work() -> int:
        loop.SelectiveUpdate = Elsewhere
        static_checks.WITHOUT_OWN_MEMORY = ()
        sharding.fully_shard = fully_shard
        code = run_command(
            ["run", "tiny.yaml", "-o", "name=away", "-o", f"train.offload=[{parts}]"]
        )
        assert not torch.distributed.is_initialized()
        found = [[asdict(engine) for engine in engines], sorted(policies)]
        Path("engines.json").write_text(json.dumps(found))
        return code

    child, told = watched(work)
    said = told.read()
    assert child.wait() == 0, said
    kept, names = json.loads((bench.root / "engines.json").read_text())
    return [Engine(**one) for one in kept], set(names)


@pytest.mark.parametrize("parts", ["optimiser", "weights", "optimiser,weights"])
def test_a_run_with_its_parts_in_main_memory(bench: Bench, parts: str) -> None:
    experiment(bench, METHODS)
    bench.must("run", "tiny.yaml", "-o", "name=one")
    engines, policies = in_another_process(bench, parts)
    compare(bench.root / "results", "away", ["sft", "migu", "lora", "all"])
    assert policies == ({"CPUOffloadPolicy"} if "weights" in parts else set())
    assert len(engines) == 8 and sum(engine.away > 0 for engine in engines) >= 6
    if "optimiser" in parts:
        assert all(engine.away == engine.trained for engine in engines), "adapters too"
    as_planned(bench, engines[0], parts.split(","))


def as_planned(bench: Bench, engine: Engine, offload: list[str]) -> None:
    """What the first engine, of sft, holds; without its indices everything in main memory."""
    shapes = replace(shapes_of(load_skeleton(bench.root / "model")[0]), dtype_bytes=8)
    counted = held_total(total(SFT(), shapes), shapes, TrainConfig(offload=offload))
    assert engine.rows == counted.main.weights
    assert engine.held["gradients"] == counted.base.gradients + counted.main.gradients
    assert engine.held["optimiser"] == counted.base.optimiser + counted.main.masters


def test_what_cannot_be_in_main_memory_is_refused(bench: Bench) -> None:
    """By plan and run, all at once; that a run is on the CPU by it alone."""
    experiment(bench, ["agem", "sft", {"name": "fggm", "mask": "soft"}])
    parts = ["-o", "train.offload=[optimiser,method]"]
    for command in ("plan", "run"):
        code, _, err = bench.run(command, "tiny.yaml", *parts)
        assert code == 2
        for word in (
            "agem needs weights and gradients on the card",
            "would do nothing: sft keeps no tensors that it moves (ewc does)",
            "give mask: hard and no refresh",
        ):
            assert word in err, err
        assert ("computes on the CPU" in err) == (command == "run")
    bench.write_config(methods=["ewc"], train={"offload": ["method", "weights"]})
    code, _, err = bench.run("plan", "tiny.yaml")
    assert code == 2 and "leave one of them out" in err, err
    code, _, err = bench.run("plan", "tiny.yaml", "-o", "train.offload=[method,method]")
    assert code == 2 and "a part is listed twice" in err, err


def test_plan_says_what_is_in_main_memory(bench: Bench) -> None:
    experiment(bench, ["ewc"])
    told = bench.must("plan", "tiny.yaml", "-o", "train.offload=[optimiser,method]")
    (line,) = [line for line in told.splitlines() if "in main memory" in line]
    assert line.startswith("ewc: ") and "masters and moments" in line and "the method's" in line
