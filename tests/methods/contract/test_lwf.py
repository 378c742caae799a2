"""LwF against per-sample distillation written out plainly."""

from __future__ import annotations

import copy

import torch

from tests.helpers.reference import Gradients, assert_close, encode, reference_training, weights
from tests.methods.contract.helpers import NEW, OLD, TRAIN, model64, two_stages


def test_lwf_stays_near_the_outputs_of_the_model_before() -> None:
    expected = model64()
    reference_training(expected, OLD, TRAIN, 2)
    teacher, items = copy.deepcopy(expected), encode(NEW, TRAIN)

    def distil(gradients: Gradients) -> None:
        total = torch.zeros((), dtype=torch.float64)
        for item in items:
            ids = torch.tensor([item.input_ids])
            rows = slice(item.prompt_length - 1, len(item.input_ids) - 1)
            p = (teacher(input_ids=ids).logits[0, rows].detach() / 2).softmax(-1)
            q = (expected(input_ids=ids).logits[0, rows] / 2).softmax(-1)
            total = total + 4 * (p * (p / q).log()).sum()
        mean = 0.7 * total / sum(item.answer_tokens for item in items)
        found = torch.autograd.grad(mean, [expected.get_parameter(name) for name in gradients])
        for gradient, more in zip(gradients.values(), found, strict=True):
            gradient += more

    reference_training(expected, NEW, TRAIN, 2, index=2, before_step=distil)
    first, second = two_stages("lwf", model64(), epochs=2, strength=0.7)
    assert_close(weights(first.model), weights(teacher))
    assert_close(weights(second.model), weights(expected), 1e-7)
