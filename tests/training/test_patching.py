"""Replacing forwards: hooks are still called, nesting restores in order, and pauses are exact."""

from __future__ import annotations

import torch
from torch import nn

from cl_bench.training.patching import as_declared, is_replaced, replaced


def test_replacements_nest_and_leave_nothing_behind() -> None:
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    plain = layer(x)
    seen: list[int] = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    with replaced(layer, lambda x: x + 1):
        with replaced(layer, lambda x: x + 2):
            assert torch.equal(layer(x), x + 2)
        assert torch.equal(layer(x), x + 1)
        with as_declared([layer]):
            assert not is_replaced(layer) and torch.equal(layer(x), plain)
        assert is_replaced(layer) and torch.equal(layer(x), x + 1)
    assert not is_replaced(layer) and torch.equal(layer(x), plain)
    assert len(seen) == 5


def test_an_error_inside_restores_too() -> None:
    layer = nn.Linear(2, 2)
    try:
        with replaced(layer, lambda x: x), as_declared([layer]):
            raise ValueError
    except ValueError:
        pass
    assert not is_replaced(layer)
