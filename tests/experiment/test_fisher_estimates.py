"""Estimates of the Fisher against squared gradients in plain loops."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from cl_bench.experiment.fisher_estimates import estimates
from tests.helpers.reference import NEW, TRAIN, all64, encode, make_stage, sample_loss


def rows_of(model: Any, items: list[Any], tokens: int | None = None) -> dict[str, Tensor]:
    """Row sums of squared gradients: of every example, or of the mean loss over `tokens`."""
    total: dict[str, Tensor] = {}
    groups = [[item] for item in items] if tokens is None else [items]
    for group in groups:
        model.zero_grad()
        (sum(sample_loss(model, item) for item in group) / (tokens or 1)).backward()
        for name, parameter in model.named_parameters():
            if ".layers." in name and parameter.dim() == 2:
                square = parameter.grad.square()
                rows = torch.tensor([sum(row) for row in square.tolist()], dtype=torch.float64)
                total[name] = total.get(name, 0) + rows
    return total


def jaccard(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of the rows above the 0.7-quantile: of n rows those behind the first floor(0.7 (n - 1))."""
    both = either = 0
    for name in one:
        count = len(one[name]) - 1 - int(0.7 * (len(one[name]) - 1) + 1e-9)
        sets = [
            set(sorted(range(len(s)), key=lambda i: -float(s[i]))[:count])
            for s in (one[name], other[name])
        ]
        both, either = both + len(sets[0] & sets[1]), either + len(sets[0] | sets[1])
    return both / either


def ranks(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Spearman's correlation without ties, a mean over weights by their rows."""
    total = rows = 0.0
    for name in one:
        n = len(one[name])
        places = [
            {i: r for r, i in enumerate(s.argsort().tolist())} for s in (one[name], other[name])
        ]
        gaps = sum((places[0][i] - places[1][i]) ** 2 for i in range(n))
        total, rows = total + n * (1 - 6 * gaps / (n * (n * n - 1))), rows + n
    return total / rows


def test_every_estimate_against_loops() -> None:
    model = all64()
    stage, batcher = make_stage(model, NEW, TRAIN)
    found = list(estimates(model, batcher, TRAIN, NEW))
    plain, items = copy.deepcopy(model).eval(), encode(NEW, TRAIN)
    whole = rows_of(plain, items)
    first, rest = rows_of(plain, items[:4]), rows_of(plain, items[4:])
    batches: dict[str, Tensor] = {}
    for at in (0, 4, 8):
        group = items[at : at + 4]
        own = rows_of(plain, group, sum(item.answer_tokens for item in group))
        batches = {name: batches.get(name, 0) + value for name, value in own.items()}
    expected = [
        ("per example", 1, rows_of(plain, items[:1]), whole),
        ("per example", 2, rows_of(plain, items[:2]), whole),
        ("per example", 4, first, whole),
        ("per example, two halves", 4, first, rest),
        ("batches of 4", 9, batches, whole),
    ]
    assert [(one.what, one.examples) for one in found] == [each[:2] for each in expected]
    for one, (_, _, scores, reference) in zip(found, expected, strict=True):
        assert one.masks.value == pytest.approx(jaccard(scores, reference))
        assert one.ranks == pytest.approx(ranks(scores, reference), abs=1e-6)
    assert stage.model is model and all(p.grad is None for p in model.parameters())
