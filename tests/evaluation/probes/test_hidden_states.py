"""Drift of hidden states against sums in plain loops, and the states against the layers' inputs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cl_bench.evaluation.probes.hidden_states import drift, hidden_states, linear_cka
from cl_bench.evaluation.probes.kl import Text
from tests.helpers.tiny import tiny_model


def plainly(x: list[list[float]], y: list[list[float]]) -> tuple[float, float, float]:
    """1 - cosine, relative change, and CKA by products of centred columns."""
    n, cosines, changes = len(x), 0.0, 0.0
    for a, b in zip(x, y, strict=True):
        size = math.sqrt(sum(v * v for v in a))
        other = math.sqrt(sum(v * v for v in b))
        cosines += 1 - sum(p * q for p, q in zip(a, b, strict=True)) / size / other
        changes += math.sqrt(sum((q - p) ** 2 for p, q in zip(a, b, strict=True))) / size

    def columns(rows: list[list[float]]) -> list[list[float]]:
        found = [list(column) for column in zip(*rows, strict=True)]
        return [[v - sum(column) / n for v in column] for column in found]

    def product(one: list[list[float]], other: list[list[float]]) -> float:
        """The squared size of one' other."""
        return sum(sum(p * q for p, q in zip(a, b, strict=True)) ** 2 for a in one for b in other)

    cx, cy = columns(x), columns(y)
    cka = product(cx, cy) / math.sqrt(product(cx, cx) * product(cy, cy))
    return cosines / n, changes / n, cka


def test_drift_is_that_of_the_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(7, 5, generator=generator) + 1 for _ in range(2))
    (found,) = drift([x], [y])
    expected = plainly(x.double().tolist(), y.double().tolist())
    assert (found.cosine, found.relative, found.cka) == pytest.approx(expected, rel=1e-9)
    turned, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))
    assert linear_cka(x.double(), 3 * x.double() @ turned + 2) == pytest.approx(1)
    (same,) = drift([x], [x])
    assert (same.cosine, same.relative, same.cka) == pytest.approx((0, 0, 1), abs=1e-12)
    (lost,) = drift([x], [x * torch.nan])
    assert all(math.isnan(value) for value in (lost.cosine, lost.relative, lost.cka))


def test_states_are_what_layers_and_head_read() -> None:
    model: Any = tiny_model(layers=3, dtype=torch.float64).train()
    texts = [Text((5, 9, 30, 7), (1, 3)), Text((8, 8, 200), (2,))]
    seen: list[list[Tensor]] = [[], [], [], []]
    readers = [*model.model.layers, model.lm_head]
    for i, module in enumerate(readers):
        module.register_forward_pre_hook(
            lambda _, args, kwargs, i=i: seen[i].append((*args, *kwargs.values())[0][0]),
            with_kwargs=True,
        )
    with torch.no_grad():
        for text in texts:
            model.eval()(input_ids=torch.tensor([text.ids]), use_cache=False)
    expected = [torch.stack([own[0][1], own[0][3], own[1][2]]) for own in seen]
    for own in seen:
        own.clear()
    model.train()
    found = hidden_states(model, texts)
    assert model.training and len(found) == 4
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)
