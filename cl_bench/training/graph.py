"""Which weights a loss was computed from, as autograd saw it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def leaves_read(value: Tensor) -> list[Tensor]:
    """The leaves (parameters) that the graph behind `value` leads to."""
    seen: set[Any] = set()
    waiting: list[Any] = [value.grad_fn]
    found: list[Tensor] = []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.append(leaf)
        waiting += [edge for edge, _ in node.next_functions]
    return found
