"""Which weights a loss was computed from, as autograd saw it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def leaves_read(value: Tensor) -> set[int]:
    """Ids of the leaves (parameters) that the graph behind `value` leads to."""
    seen: set[Any] = set()
    waiting: list[Any] = [value.grad_fn]
    found: set[int] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.add(id(leaf))
        waiting += [edge for edge, _ in node.next_functions]
    return found
