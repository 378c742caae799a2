"""Where keys and values stand: one store for all sequences, of which each has some extents.

What a pass computes stays where it was written: sequences that share a prefix share its extent,
and nothing is copied when one starts to be decoded.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cl_bench.evaluation.shared_prefix.fused.compiled import Heads
from cl_bench.evaluation.shared_prefix.kv_slots import zeros


@dataclass(eq=False)
class Extent:
    """Neighbouring places of a store, in tokens."""

    start: int
    room: int
    length: int
    """Tokens that it holds."""
    users: int = 0
    """Sequences, and the trunk, that look at it."""


class Places:
    """Which places of a store are free."""

    def __init__(self, count: int) -> None:
        self.free = [(0, count)]
        """(start, room) of all free ranges, in order; neighbours are one."""

    def take(self, room: int) -> int | None:
        """The first place of `room` neighbouring ones; None where there are none."""
        for i, (start, have) in enumerate(self.free):
            if have >= room:
                self.free[i : i + 1] = [(start + room, have - room)] if have > room else []
                return start
        return None

    def give_back(self, start: int, room: int) -> None:
        """Make places free again."""
        insort(self.free, (start, room))
        joined: list[tuple[int, int]] = []
        for at, size in self.free:
            if joined and sum(joined[-1]) == at:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((at, size))
        self.free = joined


class Store:
    """Keys and values of all layers, [2, groups, tokens, size] each."""

    def __init__(self, layers: int, heads: Heads, dtype: torch.dtype, tokens: int) -> None:
        """Memory is only taken for places that are written."""
        self.heads, self.tokens = heads, tokens
        shape = (2, heads.groups, tokens, heads.size)
        like = torch.empty(0, dtype=dtype)
        self.layers: list[Tensor] = [zeros(shape, like) for _ in range(layers)]
        self.places = Places(tokens)

    def grow(self, tokens: int) -> None:
        """Room for so many tokens more, behind the others."""
        for i, old in enumerate(self.layers):
            shape = (*old.shape[:2], self.tokens + tokens, old.shape[3])
            self.layers[i] = zeros(shape, old)
            self.layers[i][:, :, : self.tokens] = old
        self.places.give_back(self.tokens, tokens)
        self.tokens += tokens

    def release(self, extents: Sequence[Extent]) -> None:
        """One user less; extents without any are free."""
        for extent in extents:
            extent.users -= 1
            if not extent.users:
                self.places.give_back(extent.start, extent.room)


def bytes_per_token(layers: int, heads: Heads, dtype: torch.dtype) -> int:
    """Of keys and values in a store."""
    return layers * 2 * heads.groups * heads.size * dtype.itemsize
