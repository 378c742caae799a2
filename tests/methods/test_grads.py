"""Selection after a preliminary epoch, against single gradients of a plain model."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde

from cl_bench.methods.grads import GrADS, GrADSOptions
from cl_bench.methods.sft import SFT
from tests.helpers.reference import (
    NEW,
    TRAIN,
    assert_close,
    encode,
    make_stage,
    model64,
    reference_training,
    run_method,
    sample_loss,
    weights,
)


def sizes_by_hand(model: Any, layers: str) -> list[float]:
    both = {
        "embeddings": model.get_input_embeddings().weight,
        "head": model.get_output_embeddings().weight,
    }
    watched = list(both.values()) if layers == "both" else [both[layers]]
    if both["embeddings"] is both["head"]:
        watched = watched[:1]
    sizes = []
    for item in encode(NEW, TRAIN):
        found = torch.autograd.grad(sample_loss(model, item), watched)
        sizes.append(float(torch.cat([g.flatten() for g in found]).norm()))
    return sizes


@pytest.mark.parametrize(
    ("layers", "choose", "tie"),
    [
        ("both", "largest", False),
        ("both", "largest", True),
        ("head", "largest", False),
        ("embeddings", "densest", False),
    ],
)
def test_the_examples_that_gradients_single_out_are_trained_on_from_the_start(
    layers: Any, choose: Any, tie: bool
) -> None:
    start = model64(tie=tie)
    warm = copy.deepcopy(start)
    reference_training(warm, NEW, TRAIN, 1)
    sizes = sizes_by_hand(warm, layers)
    scores = sizes
    if choose == "densest":
        logs = np.log(sizes)
        scores = gaussian_kde(logs)(logs).tolist()
    best = sorted(sorted(range(len(NEW)), key=lambda i: -scores[i])[:4])
    expected, model = copy.deepcopy(start), copy.deepcopy(start)
    # The second phase has an order of batches of its own; with one batch an epoch it is the same.
    reference_training(expected, [NEW[i] for i in best], TRAIN, 2)
    stage, batcher = make_stage(model, NEW, TRAIN)
    method = GrADS(GrADSOptions(share=0.45, choose=choose, layers=layers))
    run_method(method, stage, batcher, epochs=2)
    assert stage.notes == {"chosen": 4, "of": 9}
    assert best != list(range(4))
    assert_close(weights(model), weights(expected))


def test_with_all_examples_it_is_plain_fine_tuning() -> None:
    plain, ours = model64(), model64()
    run_method(SFT(), *make_stage(plain, NEW, TRAIN), 2)
    run_method(GrADS(GrADSOptions(share=1)), *make_stage(ours, NEW, TRAIN), 2)
    assert_close(weights(ours), weights(plain), 0)


def test_examples_that_come_twice_are_measured_once() -> None:
    stage, batcher = make_stage(model64(), [NEW[0], NEW[1], NEW[0]], TRAIN)
    run_method(GrADS(GrADSOptions(share=0.6)), stage, batcher, 1)
    stage.mixture = stage.examples
    sizes = GrADS()._sizes(stage)
    assert sizes[0] == sizes[2] > 0 < sizes[1] != sizes[0]
