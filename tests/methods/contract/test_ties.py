"""TIES against entries merged one by one, scored and not trained on."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from cl_bench.costs.shapes import shapes_of
from cl_bench.experiment.resolve import resolve_file
from tests.helpers.configs import write
from tests.helpers.reference import assert_close, make_stage, weights
from tests.helpers.sequences import Shelf
from tests.methods.contract.helpers import NEW, TRAIN, method, model64


def merged(base: float, ends: list[float], kept: list[bool]) -> float:
    changes = [end - base if keep else 0.0 for end, keep in zip(ends, kept, strict=True)]
    sign = 1 if sum(changes) >= 0 else -1
    agree = [change for change in changes if change * sign > 0]
    return base + (sum(agree) / len(agree) if agree else 0.0)


def test_ties_merges_the_changes_that_agree_and_puts_the_weights_back() -> None:
    models = [model64(seed=seed, layers=1) for seed in range(3)]
    base, first, own = map(weights, models)
    stage, _ = make_stage(copy.deepcopy(models[2]), NEW, TRAIN, 2)
    stage.library = Shelf([base, first])
    ties = method("ties", density=0.25)
    ties.prepare(stage)
    with ties.scored(stage) as model:
        found = weights(model)
    assert_close(weights(stage.model), own, 0.0)
    for name in ("model.norm.weight", "model.layers.0.self_attn.k_proj.weight"):
        ends = [first[name] - base[name], own[name] - base[name]]
        least = [e.abs().flatten().sort().values[-max(1, e.numel() // 4)] for e in ends]
        for place in range(0, base[name].numel(), 7):
            values = [w[name].flatten()[place].item() for w in (base, first, own)]
            kept = [bool(e.abs().flatten()[place] >= at) for e, at in zip(ends, least, strict=True)]
            expected = merged(values[0], values[1:], kept)
            assert abs(found[name].flatten()[place].item() - expected) < 1e-12
    assert not torch.equal(found[name], own[name])


def test_disk_is_counted_for_a_model_that_is_scored_alone(tmp_path: Path) -> None:
    methods = ["sft", "ties", {"name": "ties", "for": "training", "label": "on"}]
    sft, ties, on = resolve_file(write(tmp_path, methods=methods)).runs
    shapes = shapes_of(model64().float())
    plain, twice, once = (run.stages[0].cost(shapes).checkpoint for run in (sft, ties, on))
    assert twice == 2 * plain > 0 and once == plain
    assert (sft.keeps, ties.keeps) == ([], ["weights"])
