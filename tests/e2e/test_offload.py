"""What `train.offload` keeps in main memory trains to what a run without it trains to.

There is no card here. The CPU takes the part of one: the check that it would do nothing is left
out, and gradients and masters are said to be on another device than the weights (`cpu:0`), so that
they go there as they do from a card. `tests/device/test_offload.py` has a device that really is
another one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

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

COMPOSED = {"compose": [{"name": "fggm", "alpha": 0.5}, "ewc", "replay"], "label": "all"}
METHODS = [
    "sft",
    {"name": "migu", "threshold": 0.5, "mask_first_task": True},
    {"name": "lora", "dropout": 0, "lr": 1e-3},
    COMPOSED,
]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Those of runs, whose state is elsewhere where it is in main memory."""
    found: list[Engine] = []

    class Elsewhere(SelectiveUpdate):
        def __init__(self, *given, state=None, **named):
            other = None if state is None else torch.device("cpu", 0)
            super().__init__(*given, state=other, **named)
            away = {name for name, leaf in self._leaves.items() if leaf.grad is None}
            rows = sum(own_part(p).nbytes for p in self.model.parameters() if is_split(p))
            found.append(Engine(away, set(self.grads), rows, self.nbytes()))

    monkeypatch.setattr(loop, "SelectiveUpdate", Elsewhere)
    monkeypatch.setattr(static_checks, "WITHOUT_OWN_MEMORY", ())
    return found


@dataclass
class Engine:
    """Parameters whose gradients go elsewhere, all that are trained, bytes by rows, bytes held."""

    away: set[str]
    trained: set[str]
    rows: int
    held: dict[str, int]


@pytest.mark.parametrize("parts", ["optimiser", "weights", "optimiser,weights"])
def test_a_run_with_its_parts_in_main_memory(bench: Bench, engines, monkeypatch, parts) -> None:
    experiment(bench, METHODS)
    bench.must("run", "tiny.yaml", "-o", "name=one")
    assert not any(engine.away or engine.rows for engine in engines)
    engines.clear()
    policies = []

    def fully_shard(module, **named):
        policies.append(type(named["offload_policy"]).__name__)
        return shard(module, **named)

    shard = sharding.fully_shard
    monkeypatch.setattr(sharding, "fully_shard", fully_shard)
    bench.must("run", "tiny.yaml", "-o", "name=away", "-o", f"train.offload=[{parts}]")
    compare(bench.root / "results", "away", ["sft", "migu", "lora", "all"])
    assert not torch.distributed.is_initialized()
    assert set(policies) == ({"CPUOffloadPolicy"} if "weights" in parts else set())
    assert len(engines) == 8 and sum(bool(engine.away) for engine in engines) >= 6
    if "optimiser" in parts:
        assert all(engine.away == engine.trained for engine in engines), "and adapters"
    as_planned(bench, engines[0], parts.split(","))


def as_planned(bench: Bench, engine: Engine, offload: list[str]) -> None:
    """What the first engine, of sft, holds; without its indices everything in main memory."""
    shapes = replace(shapes_of(load_skeleton(bench.root / "model")[0]), dtype_bytes=8)
    counted = held_total(total(SFT(), shapes), shapes, TrainConfig(offload=offload))
    assert engine.rows == counted.main.weights
    everywhere = counted.base, counted.main
    assert engine.held["gradients"] == sum(one.gradients for one in everywhere)
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
