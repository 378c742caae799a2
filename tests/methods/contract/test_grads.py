"""Selection after a preliminary epoch, against single gradients of a plain model."""

from __future__ import annotations

import copy

import torch

from tests.helpers.reference import (
    assert_close,
    encode,
    make_stage,
    reference_training,
    run_method,
    sample_loss,
    weights,
)
from tests.methods.contract.helpers import NEW, TRAIN, method, model64


def test_the_examples_with_the_largest_gradients_are_trained_on_from_the_start() -> None:
    start = model64()
    warm = copy.deepcopy(start)
    reference_training(warm, NEW, TRAIN, 1)
    watched = [warm.get_input_embeddings().weight, warm.get_output_embeddings().weight]  # type: ignore[operator]
    sizes = []
    for item in encode(NEW, TRAIN):
        found = torch.autograd.grad(sample_loss(warm, item), watched)
        sizes.append(float(torch.cat([g.flatten() for g in found]).norm()))
    largest = sorted(sorted(range(len(NEW)), key=lambda i: -sizes[i])[:4])
    expected, model = copy.deepcopy(start), copy.deepcopy(start)
    reference_training(expected, [NEW[i] for i in largest], TRAIN, 2)
    stage, batcher = make_stage(model, NEW, TRAIN)
    run_method(method("grads", share=0.5), stage, batcher, epochs=2)
    assert stage.notes["chosen"] == largest != list(range(4))
    assert_close(weights(model), weights(expected))
