"""Keys and values of the sequences that are being decoded: one slot each, nothing ever shifted."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

COLUMN_STEP = 128
"""Columns are added in such steps, so that growing copies seldom."""


class SlotLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values [slots, heads, columns, head_dim], written in place.

    transformers' own dynamic layer copies the whole cache for each decoded token.
    """

    def __init__(self, like: torch.Tensor) -> None:
        """An empty layer for keys of the shape [1, heads, any, head_dim] of `like`."""
        super().__init__()
        self.lazy_initialization(like, like)
        shape = (0, like.shape[1], 0, like.shape[3])
        self.keys = self.values = like.new_zeros(shape)
        self.held = self.width = 0
        self.in_order = False
        self.rows = self.columns = torch.zeros(0, dtype=torch.long, device=like.device)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [B, heads, Q, head_dim] at the slots and columns [B, Q] of the step.

        All slots come back, or what those of the step hold, where each has a row of the batch.
        """
        self.keys[self.rows, :, self.columns] = key_states.transpose(1, 2)
        self.values[self.rows, :, self.columns] = value_states.transpose(1, 2)
        if not self.width:
            return self.keys, self.values
        if self.in_order:
            n = len(self.rows)
            return self.keys[:n, :, : self.width], self.values[:n, :, : self.width]
        rows = self.rows[:, 0]
        return self.keys[rows, :, : self.width], self.values[rows, :, : self.width]

    def get_seq_length(self) -> int:
        """Tokens that the longest slot of the step held before it."""
        return self.held

    def reserve(self, slots: int, columns: int) -> None:
        """Make room. New memory is zero: a masked key may be anything but NaN."""
        have, heads, wide, size = self.keys.shape
        if slots <= have and columns <= wide:
            return
        shape = (max(slots, have), heads, max(columns, wide), size)
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = zeros(shape, old)
            new[:have, :, :wide] = old
            setattr(self, name, new)


def zeros(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Zeros of a tensor's dtype and device.

    On a CPU from numpy, which asks for large pages and for memory that is zero without being
    written: a step reads all of it, half as fast again from small pages.
    """
    size = prod(shape) * like.element_size()
    if like.device.type != "cpu" or not size:
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(like.dtype).view(*shape)


class SlotCache:
    """The slots of all layers. Active sequences are slots 0 .. n-1."""

    def __init__(self, prefilled: Cache) -> None:
        """Empty slots for the model that filled `prefilled`."""
        self.layers = [SlotLayer(layer.keys) for layer in prefilled.layers]
        self.cache = Cache(layers=self.layers)

    @property
    def count(self) -> int:
        """Slots that there are."""
        return len(self.layers[0].keys)

    @property
    def columns(self) -> int:
        """Tokens that a slot has room for."""
        return int(self.layers[0].keys.shape[2])

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one column of one slot, all layers."""
        return sum(
            2 * layer.keys.shape[1] * layer.keys.shape[3] * layer.keys.element_size()
            for layer in self.layers
        )

    def reserve(self, slots: int, columns: int) -> None:
        """Room for `slots` sequences of `columns` tokens."""
        wide = -(-columns // COLUMN_STEP) * COLUMN_STEP
        for layer in self.layers:
            layer.reserve(slots, wide)

    def fill(self, slot: int, prefilled: Cache, row: int, columns: torch.Tensor) -> None:
        """Copy the tokens at `columns` of a row of `prefilled` into a slot."""
        n = len(columns)
        for mine, theirs in zip(self.layers, prefilled.layers, strict=True):
            where = columns.to(theirs.keys.device)
            mine.keys[slot, :, :n] = theirs.keys[row].index_select(1, where)
            mine.values[slot, :, :n] = theirs.values[row].index_select(1, where)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a slot's first `length` tokens to another slot."""
        for layer in self.layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def at(self, rows: torch.Tensor, columns: torch.Tensor, held: int, width: int = 0) -> Cache:
        """The cache for a step that writes its tokens at the slots `rows` and `columns` [B, Q].

        Before, the longest slot held `held` tokens. With a `width`, every row of the batch is a
        slot of its own and gets so many columns back.
        """
        for layer in self.layers:
            layer.rows, layer.columns = rows.to(layer.device), columns.to(layer.device)
            layer.held, layer.width, layer.in_order = held, width, False
        return self.cache

    def first(self, rows: torch.Tensor, columns: torch.Tensor, width: int) -> Cache:
        """`at` of the slots 0, 1, ... `rows` [B, 1], without a copy of what they hold."""
        cache = self.at(rows, columns, width - 1, width)
        for layer in self.layers:
            layer.in_order = True
        return cache
