"""Branch and merge against slices that are trained apart; averages beside other methods."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cl_bench.methods.base import Method
from cl_bench.methods.compose import Composite
from cl_bench.methods.fggm import FGGM
from cl_bench.methods.lora import LoRA
from cl_bench.methods.registry import method_class
from tests.helpers.merged import on_the_arc
from tests.helpers.reference import (
    assert_close,
    examples,
    make_stage,
    model64,
    reference_training,
    run_method,
    weights,
)
from tests.methods.contract.helpers import TRAIN

EIGHT = examples("new", 8)
Gradients = dict[str, Tensor]


def build(name: str, **options: Any) -> Method:
    cls = method_class(name)
    return cls(cls.options_type.model_validate({k.rstrip("_"): v for k, v in options.items()}))


def trained(start: Gradients, items: Any) -> Gradients:
    model = model64(layers=1)
    model.load_state_dict(start, strict=False)
    reference_training(model, items, TRAIN, 1)
    return weights(model)


def merged(ends: list[Gradients], how: str) -> Gradients:
    found = {}
    for name, first in ends[0].items():
        if how == "slerp":
            entries = [end[name].flatten().tolist() for end in ends]
            found[name] = torch.tensor(on_the_arc(*entries, 0.5), dtype=first.dtype).view_as(first)
        else:
            found[name] = sum((end[name] for end in ends[1:]), first) / len(ends)
    return found


@pytest.mark.parametrize(
    ("branches", "rounds", "how"),
    [(2, 2, "linear"), (3, 1, "linear"), (2, 2, "slerp"), (1, 2, "linear")],
)
def test_rounds_begin_with_the_mean_of_the_branches(branches: int, rounds: int, how: str) -> None:
    model = model64(layers=1)
    at, count = weights(model), branches * rounds
    for first in range(0, count, branches):
        slices = [EIGHT[first + branch :: count] for branch in range(branches)]
        at = merged([trained(at, each) for each in slices], how)
    method = build("branch_merge", branches=branches, rounds=rounds, merge=how)
    records = run_method(method, *make_stage(model, EIGHT, TRAIN), epochs=1)
    assert [record["phase"] for record in records] == list(range(1, count + 1))
    assert_close(weights(model), at)


def test_a_stage_needs_an_example_for_every_slice() -> None:
    assert build("branch_merge", branches=3, rounds=3).least_examples == 9
    assert build("ema").least_examples == 1


def averaged(other: Method, use: str) -> tuple[nn.Module, Gradients, Gradients]:
    """The model before, and what an average beside another method leaves and has scored."""
    model = model64(layers=1)
    before = copy.deepcopy(model)
    own = build("ema", decay=0.6, for_=use)
    both = Composite([own, other])
    stage, batcher = make_stage(model, EIGHT, TRAIN)
    run_method(both, stage, batcher, epochs=2)
    with both.scored(stage) as scored:
        return before, weights(stage.model) if use == "training" else {}, weights(scored)


def test_an_average_of_what_is_trained_leaves_the_rest_to_the_bit() -> None:
    stepped: list[Gradients] = []

    class Looks(FGGM):
        """After every update, the whole weights."""

        def prepare(self, stage: Any) -> None:
            self.model = stage.model
            stepped.append(weights(self.model))
            super().prepare(stage)

        def after_step(self, masters: Any) -> bool:
            stepped.append(weights(self.model))
            return False

    for use in ("training", "scoring"):
        stepped.clear()
        before, _, found = averaged(Looks(FGGM.options_type(alpha=0.5)), use)
        average = stepped[0]
        for step in stepped[1:]:
            average = {n: 0.6 * v + 0.4 * step[n] for n, v in average.items()}
        assert len(stepped) == 3
        assert_close(found, average)
        frozen = 0
        for name, value in weights(before).items():
            still = stepped[0][name] == stepped[-1][name]
            assert torch.equal(found[name][still], value[still])
            frozen += int(still.sum())
        assert frozen > 100


def test_an_average_beside_lora_is_one_of_the_adapter() -> None:
    _, _, found = averaged(LoRA(LoRA.options_type(dropout=0)), "scoring")
    _, ended, also = averaged(LoRA(LoRA.options_type(dropout=0)), "training")
    assert_close(found, also, 0.0)
    assert_close(ended, also, 0.0)
    assert any("lora_B" in name and bool(value.any()) for name, value in found.items())
