"""GEM's dual against every face of its cone, and its training against a plain loop."""

from __future__ import annotations

import copy
from itertools import product

import numpy as np
import pytest
import torch

from cl_bench.data.examples import Example
from cl_bench.methods.gem import GEM, GEMOptions, dual
from cl_bench.methods.memory import memories
from cl_bench.methods.sft import SFT
from tests.helpers.reference import TRAIN as PLAIN
from tests.helpers.reference import (
    Gradients,
    assert_close,
    encode,
    make_stage,
    model64,
    reference_training,
    run_method,
    sample_loss,
    weights,
)

OLDER = [Example(f"say {i}: ", "aa", i, "older", "generate") for i in range(4)]
OLD = [Example(f"tell {i}: ", "bbb", i, "old", "generate") for i in range(3)]
NEW = [Example(f"say {i}: ", "zzz", i, "new", "generate") for i in range(5)]
EARLIER = [("older", OLDER), ("old", OLD)]
TRAIN = PLAIN.model_copy(update={"lr": 2e-2, "batch_size": 8})


def every_face(past: np.ndarray, g: np.ndarray, margin: float) -> np.ndarray:
    """g + past' v for the best v >= margin, by solving on every choice of weights at the margin."""
    t = len(past)
    best, found = np.inf, g
    for free in product([False, True], repeat=t):
        v = np.full(t, margin)
        index = [k for k in range(t) if free[k]]
        if index:
            rest = g + past.T @ np.where(free, 0.0, v)
            v[index] = np.linalg.lstsq(past[index].T, -rest, rcond=None)[0]
        if (v >= margin - 1e-12).all():
            value = float(np.square(g + past.T @ v).sum())
            if value < best:
                best, found = value, g + past.T @ v
    return found


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("t", [1, 2, 4])
def test_the_projection_is_the_best_of_all_faces(t: int, margin: float) -> None:
    rng = np.random.default_rng(t)
    for trial in range(30):
        past, g = rng.normal(size=(t, 5)) * 10.0 ** rng.integers(-4, 4, (t, 1)), rng.normal(size=5)
        if trial % 3 == 0 and t > 1:
            past[1] = past[0] * 2.0  # two memories that say the same
        v = dual(past @ past.T, past @ g, margin)
        ours, best = g + past.T @ v, every_face(past, g, margin)
        assert (v >= margin).all()
        scale = np.abs(past).max() * margin + 1.0
        np.testing.assert_allclose(ours, best, rtol=0, atol=1e-9 * scale)
        assert (past @ ours >= -1e-8 * scale * np.linalg.norm(past, axis=1)).all()


def test_one_memory_without_margin_is_a_gems_projection() -> None:
    g, m = np.array([1.0, -3.0]), np.array([0.5, 2.0])
    v = dual(np.array([[m @ m]]), np.array([m @ g]), 0.0)
    np.testing.assert_allclose(g + v[0] * m, g - (g @ m) / (m @ m) * m, atol=1e-14)


def test_gem_is_its_projection_at_every_update() -> None:
    expected = model64(layers=1)
    reference_training(expected, OLDER + OLD, TRAIN, 6)
    model = copy.deepcopy(expected)
    stage, batcher = make_stage(model, NEW, TRAIN, 3, EARLIER)
    kept = memories(stage, "gem", 3)
    projected = []

    def gradient(items: list[Example], names: list[str]) -> np.ndarray:
        encoded = encode(items, TRAIN)
        loss = sum(sample_loss(expected, item) for item in encoded)
        loss = loss / sum(item.answer_tokens for item in encoded)
        found = torch.autograd.grad(loss, [expected.get_parameter(name) for name in names])
        return torch.cat([one.flatten() for one in found]).numpy()

    def project(gradients: Gradients) -> None:
        past = np.stack([gradient(items, list(gradients)) for items in kept])
        g = torch.cat([one.flatten() for one in gradients.values()]).numpy()
        projected.append(bool((past @ g < 0).any()))
        if projected[-1]:
            new = torch.from_numpy(every_face(past, g, 0.1))
            sizes = [one.numel() for one in gradients.values()]
            for one, values in zip(gradients.values(), new.split(sizes), strict=True):
                one.copy_(values.view_as(one))

    reference_training(expected, NEW, TRAIN, 4, index=3, before_step=project)
    run_method(GEM(GEMOptions(memory=3, margin=0.1)), stage, batcher, 4)
    assert stage.notes["projected"] == sum(projected) > 0
    assert_close(weights(model), weights(expected))


def test_without_a_memory_it_is_plain_fine_tuning() -> None:
    plain = model64(layers=1)
    ours, first = copy.deepcopy(plain), copy.deepcopy(plain)
    run_method(SFT(), *make_stage(plain, NEW, TRAIN, 2), 2)
    run_method(GEM(GEMOptions(memory=0)), *make_stage(ours, NEW, TRAIN, 2, EARLIER), 2)
    run_method(GEM(), *make_stage(first, NEW, TRAIN, 2), 2)
    assert_close(weights(ours), weights(plain), 0)
    assert_close(weights(first), weights(plain), 0)
