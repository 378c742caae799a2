"""LwF and the KL term to the base model against distillation written out plainly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cl_bench.data.tokens import Encoded
from cl_bench.methods.base import Method
from cl_bench.methods.compose import Composite
from cl_bench.methods.kl_base import KLBase, KLBaseOptions
from cl_bench.methods.lora import LoRA, LoRAOptions
from cl_bench.methods.lwf import LwF, LwFOptions
from cl_bench.methods.sft import SFT
from cl_bench.methods.teacher import base_model, model_before
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    all64,
    assert_close,
    encode,
    make_stage,
    reference_training,
    run_method,
    weights,
)
from tests.helpers.sequences import Shelf, run_sequence


def lwf(**options: Any) -> Method:
    return LwF(LwFOptions.model_validate(options))


def kl_base(**options: Any) -> Method:
    return KLBase(KLBaseOptions.model_validate(options))


def answers(model: nn.Module, item: Encoded) -> Tensor:
    """Logits [answer tokens, V] of one example."""
    logits: Tensor = model(input_ids=torch.tensor([item.input_ids])).logits[0]
    return logits[item.prompt_length - 1 : len(item.input_ids) - 1]


def test_lwf_stays_near_the_outputs_of_the_model_before() -> None:
    expected = all64(layers=1)
    reference_training(expected, OLD, TRAIN, 2)
    teacher = copy.deepcopy(expected)

    def distance(item: Encoded) -> Tensor:
        p = (answers(teacher, item).detach() / 3).softmax(-1)
        q = (answers(expected, item) / 3).softmax(-1)
        return 0.7 * 9 * (p * (p / q).log()).sum()

    reference_training(expected, NEW, TRAIN, 2, index=2, term=distance)
    make = lambda: lwf(**{"lambda": 0.7, "temperature": 3})  # noqa: E731
    first, second = run_sequence(make, all64(layers=1), (OLD, NEW), TRAIN, 2)
    assert_close(first.weights, weights(teacher))
    assert_close(second.weights, weights(expected))


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_kl_base_stays_near_the_base_model_in_every_stage(direction: str) -> None:
    expected = all64(layers=1)
    base = copy.deepcopy(expected)

    def distance(item: Encoded) -> Tensor:
        p, q = (answers(m, item).softmax(-1) for m in (base, expected))
        p = p.detach()
        return 0.7 * ((q * (q / p).log()) if direction == "reverse" else (p * (p / q).log())).sum()

    for index, items in enumerate((OLD, NEW), 1):
        reference_training(expected, items, TRAIN, 2, index, term=distance)
    make = lambda: kl_base(beta=0.7, direction=direction)  # noqa: E731
    *_, last = run_sequence(make, all64(layers=1), (OLD, NEW), TRAIN, 2)
    assert_close(last.weights, weights(expected))


@pytest.mark.parametrize("make", [lambda: lwf(**{"lambda": 0}), lambda: kl_base(beta=0)])
def test_without_strength_both_are_plain_fine_tuning(make: Callable[[], Method]) -> None:
    *_, plain = run_sequence(SFT, all64(layers=1), (OLD, NEW), TRAIN)
    *_, ours = run_sequence(make, all64(layers=1), (OLD, NEW), TRAIN)
    assert_close(ours.weights, plain.weights, 0)


def test_teachers_beside_an_adapter() -> None:
    """One is the adapted model as it was, the other the base model; training moves neither."""
    start = all64(layers=1)
    stage, batcher = make_stage(copy.deepcopy(start), OLD, TRAIN)
    run_method(LoRA(LoRAOptions(r=2, dropout=0.0)), stage, batcher, 2)
    adapted = copy.deepcopy(stage.model)
    stage, batcher = make_stage(stage.model, NEW, TRAIN, 2)
    stage.library = Shelf([weights(start)])
    before, base = model_before(stage), base_model(stage)
    parts = [LoRA(LoRAOptions(r=2, dropout=0.0)), lwf(), kl_base()]
    run_method(Composite(parts), stage, batcher, 2)
    (item,) = encode(NEW[:1], TRAIN)
    for teacher, original in ((before, adapted), (base, start)):
        assert torch.equal(answers(teacher, item), answers(original, item))
    assert not torch.equal(answers(before, item), answers(stage.model, item))
