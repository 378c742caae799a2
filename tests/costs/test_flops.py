"""Counted FLOPs against what torch's counter sees of matrix products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cl_bench.costs.added import fisher_pass
from cl_bench.costs.shapes import shapes_of
from cl_bench.costs.total import total
from cl_bench.importance.fisher import fisher_scores
from cl_bench.training.loss import answer_loss
from tests.helpers.cases import CASES, without_our_attention
from tests.helpers.selective_oracle import random_batch
from tests.helpers.tiny import tiny_model

SAMPLES, LENGTH = 3, 48
BATCH = random_batch(259, [(1, LENGTH - 1)] * SAMPLES, "left", 0)
"""Answers everywhere: the engine leaves out positions without a gradient."""


def counter() -> FlopCounterMode:
    """Knows products that are added in place too."""

    def in_place(out: Any, a: tuple[int, int], b: tuple[int, int], **_: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place})


@pytest.fixture(autouse=True)
def attention_that_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    without_our_attention(monkeypatch)


@pytest.mark.parametrize(
    "case", ["sft", "fggm", "fggm columns", "fggm elements", "ewc", "lora", "block_expansion"]
)
def test_training(memory: Any, case: str) -> None:
    shapes = shapes_of(tiny_model())
    cost = total(CASES[case](), shapes)
    answers = SAMPLES * (LENGTH - 1)
    trains_head = "lm_head.weight" in cost.base.inputs_kept
    head = answers * 259 * 32 * (6 if trains_head else 4)
    with memory.second_stage(CASES[case], tiny_model, BATCH) as held, counter() as flops:
        if case == "block_expansion":  # no gradient comes through matrices of 0
            for parameter in held.model.parameters():
                parameter.data.add_(0.1 * (not parameter.any()))
        answer_loss(held.model, BATCH, 1.0)[0].backward()
    counted = SAMPLES * LENGTH * cost.flops_per_token + head
    # Adapters in the first of two layers need no gradient of their input; in more layers it fades.
    tolerance = 0.15 if case == "lora" else 0.01
    assert counted == pytest.approx(flops.get_total_flops(), rel=tolerance)


@pytest.mark.parametrize("case", ["sft", "fggm", "lora everywhere"])
def test_a_forward_pass_without_gradient(memory: Any, case: str) -> None:
    """What a teacher and generation are counted by."""
    base = total(CASES[case](), shapes_of(tiny_model())).base
    stage = memory.second_stage(CASES[case], tiny_model, BATCH)
    with stage as held, counter() as flops, torch.no_grad():
        answer_loss(held.model, BATCH, 1.0)
    head = SAMPLES * (LENGTH - 1) * 259 * 32 * 2
    counted = SAMPLES * LENGTH * base.forward_flops + head
    assert counted == pytest.approx(flops.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("length", [8, LENGTH, 200])
@pytest.mark.parametrize("granularity", ["rows", "columns", "elements"])
def test_scoring_pass_is_an_upper_bound_and_not_far(granularity: Any, length: int) -> None:
    model = tiny_model()
    batch = random_batch(259, [(1, length - 1)] * SAMPLES, "left", 0)
    with counter() as flops:
        fisher_scores(model, [batch], granularity)
    head = SAMPLES * (length - 1) * 259 * 32 * 4
    counted = SAMPLES * length * fisher_pass(shapes_of(model), granularity, None).flops(length)
    measured = flops.get_total_flops() - head
    assert 0.6 * counted <= measured <= 1.01 * counted
