"""RecAdam against its two updates written out for every entry, and its shares."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cl_bench.methods.compose import Composite
from cl_bench.methods.fggm import FGGM
from cl_bench.methods.recadam import RecAdam, RecAdamOptions
from cl_bench.methods.sft import SFT
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    assert_close,
    make_stage,
    model64,
    reference_training,
    run_method,
    weights,
)
from tests.helpers.sequences import run_sequence


class Plainly(torch.optim.Optimizer):
    """The paper's rule with bias-corrected moments, in its own words."""

    def __init__(
        self,
        parameters: Any,
        anchors: list[Tensor],
        share: Any,
        weight: float,
        gamma: float,
        **own: Any,
    ) -> None:
        super().__init__(list(parameters), own)
        self.anchors, self.share, self.weight, self.gamma = anchors, share, weight, gamma
        self.moments = [(torch.zeros_like(a), torch.zeros_like(a)) for a in anchors]
        self.t = 0

    def step(self) -> None:  # type: ignore[override]
        self.t += 1
        (group,) = self.param_groups
        (b1, b2), lr, share = group["betas"], group["lr"], self.share(self.t)
        for p, anchor, (m, v) in zip(group["params"], self.anchors, self.moments, strict=True):
            m.copy_(b1 * m + (1 - b1) * p.grad)
            v.copy_(b2 * v + (1 - b2) * p.grad**2)
            u = m / (1 - b1**self.t) / ((v / (1 - b2**self.t)).sqrt() + 1e-8)
            p.data = p.data - lr * share * u
            p.data = p.data - lr * (self.weight - share) * self.gamma * (p.data - anchor)


def sigmoid(t: int) -> float:
    return 0.9 / (1 + math.exp(-0.7 * (t - 3)))


def line(t: int) -> float:
    return 0.9 * min(1, t / 3)


@pytest.mark.parametrize("anchor", ["base", "previous"])
@pytest.mark.parametrize("share", [sigmoid, line])
def test_recadam_recalls_then_learns(share: Any, anchor: str) -> None:
    expected = model64(layers=1)
    base = list(weights(expected).values())
    for index, items in enumerate((OLD, NEW), 1):
        towards = base if anchor == "base" else list(weights(expected).values())
        rule = partial(Plainly, anchors=towards, share=share, weight=0.9, gamma=300.0)
        reference_training(expected, items, TRAIN, 2, index, make_optimiser=rule)
    options = RecAdamOptions(
        anneal="sigmoid" if share is sigmoid else "linear",
        k=0.7,
        t0=3,
        weight=0.9,
        gamma=300.0,
        anchor=anchor,  # type: ignore[arg-type]
    )
    *_, last = run_sequence(lambda: RecAdam(options), model64(layers=1), (OLD, NEW), TRAIN, 2)
    assert_close(last.weights, weights(expected))
    assert last.notes["task_share_at_end"] == pytest.approx(share(6), abs=1e-6)


def test_a_constant_share_is_plain_fine_tuning() -> None:
    *_, plain = run_sequence(SFT, model64(layers=1), (OLD, NEW), TRAIN)
    make = lambda: RecAdam(RecAdamOptions(anneal="constant"))  # noqa: E731
    *_, ours = run_sequence(make, model64(layers=1), (OLD, NEW), TRAIN)
    assert_close(ours.weights, plain.weights, 0)


def test_frozen_entries_keep_their_bits_and_shares_far_from_the_middle_are_numbers() -> None:
    start = model64(layers=1)
    masked, held = copy.deepcopy(start), copy.deepcopy(start)
    run_method(FGGM(), *make_stage(masked, NEW, TRAIN, 2), 1)
    parts = [FGGM(), RecAdam(RecAdamOptions(t0=1, gamma=300.0, anchor="previous"))]
    run_method(Composite(parts), *make_stage(held, NEW, TRAIN, 2), 1)
    moved = 0
    for name, value in weights(held).items():
        frozen = weights(masked)[name] == weights(start)[name]
        assert torch.equal(value[frozen], weights(start)[name][frozen])
        moved += int((value != weights(start)[name]).sum())
    assert moved
    shares = [RecAdamOptions(k=1.0, t0=10_000).share(t) for t in (1, 10_000, 20_000)]
    assert shares == [pytest.approx(0), 0.5, 1.0]
