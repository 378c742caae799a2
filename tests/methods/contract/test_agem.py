"""A-GEM against projections written out plainly, on memories that do conflict."""

from __future__ import annotations

import torch

from cl_bench.data.examples import Example
from tests.helpers.reference import (
    Gradients,
    assert_close,
    encode,
    make_stage,
    reference_training,
    sample_loss,
    weights,
)
from tests.methods.contract.helpers import TRAIN, model64, two_stages

OLD = [Example(f"say {i}: ", "aa", i, "old", "generate") for i in range(4)]
NEW = [Example(f"say {i}: ", "zzz", i, "new", "generate") for i in range(5)]
"""The same prompts with other answers."""
TRAINED = TRAIN.model_copy(update={"lr": 2e-2})


def test_agem_projects_off_the_gradient_of_a_memory_that_it_opposes() -> None:
    expected = model64(layers=1)
    reference_training(expected, OLD, TRAINED, 8)
    draws = make_stage(expected, NEW, TRAIN, 2)[0].generator("agem")
    products = []

    def project(gradients: Gradients) -> None:
        some = [OLD[i] for i in torch.randperm(len(OLD), generator=draws)[:2].tolist()]
        items = encode(some, TRAIN)
        loss = sum(sample_loss(expected, item) for item in items)
        loss = loss / sum(item.answer_tokens for item in items)
        found = torch.autograd.grad(loss, [expected.get_parameter(name) for name in gradients])
        pairs = list(zip(gradients.values(), found, strict=True))
        product = sum(float((g * m).sum()) for g, m in pairs)
        products.append(product)
        if product < 0:
            size = sum(float(m.square().sum()) for m in found)
            for g, m in pairs:
                g -= product / size * m
            assert abs(sum(float((g * m).sum()) for g, m in pairs)) < 1e-9

    reference_training(expected, NEW, TRAINED, 8, index=2, before_step=project)
    _, second = two_stages("agem", model64(layers=1), 8, (OLD, NEW), TRAINED, memory=2)
    assert second.notes.get("projected", 0) == sum(p < 0 for p in products)
    assert_close(weights(second.model), weights(expected), 1e-7)
    assert any(p < 0 for p in products), "nothing was projected: the test shows nothing"
