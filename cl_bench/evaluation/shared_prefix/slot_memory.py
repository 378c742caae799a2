"""Keys and values of generations: what `Decoder` asks of them; slots, which all models allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from transformers import DynamicCache

from cl_bench.evaluation.shared_prefix.kv_slots import SlotCache
from cl_bench.evaluation.shared_prefix.packed_model import PackedModel, crop
from cl_bench.evaluation.shared_prefix.packing import Pack, PackLayout, Placed, lay_out


@dataclass(frozen=True)
class Room:
    """What may be decoded at once."""

    sequences: int
    cache_bytes: int


class Memory(Protocol):
    """Computes passes and steps; sequences are counted in the order in which they started."""

    def has_room(self, pack: Pack, running: Sequence[int]) -> bool:
        """Whether the sequences that a pass ends fit beside running ones, whose longest lengths
        are given: always, if there are none."""
        ...

    def prefill(self, pack: Pack) -> tuple[list[tuple[Placed, int]], torch.Tensor]:
        """Run a pass: (where, request) of every prompt that ends in it, and logits [N, V] there."""
        ...

    def start(self, place: Placed, request: int) -> None:
        """A prompt of the pass before goes on."""
        ...

    def end_pass(self) -> None:
        """No more of them start."""
        ...

    def step(self, fed: Sequence[Sequence[int]], held: Sequence[int]) -> torch.Tensor:
        """Logits [N, V] after each of the new tokens of all sequences, which hold some tokens."""
        ...

    def leave(self, number: int, last: int) -> None:
        """A sequence has ended; the last one, which holds `last` tokens, takes its number."""
        ...


def ending(placed: Sequence[Placed]) -> Iterator[tuple[Placed, int]]:
    """Prompts whose last token a pass computes for the first time, and where."""
    for place in placed:
        if place.first:
            yield from ((place, request) for request in place.segment.ends)


class SlotMemory:
    """A slot for every sequence, in which prompts are copied; a trunk beside them."""

    def __init__(self, model: PackedModel, longest: Sequence[int], room: Room) -> None:
        """`longest`: tokens that each request's prompt and answer may have."""
        self.model, self.longest, self.room = model, longest, room
        self.trunk = DynamicCache()
        self.slots: SlotCache | None = None
        self.running = 0
        self._cache, self._past = self.trunk, 0

    def has_room(self, pack: Pack, running: Sequence[int]) -> bool:
        """See `Memory`."""
        new = [self.longest[request] for _, request in ending(lay_out(pack).placed)]
        if not new or not running or self.slots is None:
            return True
        size = (len(running) + len(new)) * max([*new, *running]) * self.slots.bytes_per_token
        return len(running) + len(new) <= self.room.sequences and size <= self.room.cache_bytes

    def prefill(self, pack: Pack) -> tuple[list[tuple[Placed, int]], torch.Tensor]:
        """See `Memory`."""
        self._layout: PackLayout = lay_out(pack)
        found = list(ending(self._layout.placed))
        width = self._layout.ids.shape[1]
        keep = [place.row * width + place.columns[-1] for place, _ in found]
        crop(self.trunk, pack.past)
        self._past = pack.past
        self._cache = self.trunk if pack.trunk or pack.past > 0 else DynamicCache()
        return found, self.model.run(self._layout, np.asarray(keep, dtype=np.int64), self._cache)

    def start(self, place: Placed, request: int) -> None:
        """See `Memory`."""
        if self.slots is None:
            self.slots = SlotCache(self._cache)
        if self.running == self.slots.count:
            self._grow()
        columns = np.concatenate(
            [np.arange(self._past)]
            + [self._layout.placed[i].columns + self._past for i in place.path]
        )
        self.slots.fill(self.running, self._cache, place.row, torch.from_numpy(columns))
        self.running += 1

    def _grow(self) -> None:
        """More slots, twice as many, as far as there is room and use: growing copies all."""
        assert self.slots is not None, "called when a sequence starts"
        have = self.slots.count
        columns = max(self.slots.columns, *self.longest)
        fit = self.room.cache_bytes // (columns * self.slots.bytes_per_token)
        room = min(self.room.sequences, len(self.longest), fit)
        self._reserve(max(have + 1, min(room, self._more(have, room))), columns)

    def _reserve(self, slots: int, columns: int) -> None:
        assert self.slots is not None, "called when a sequence starts"
        self.slots.reserve(slots, columns)

    def _more(self, have: int, room: int) -> int:
        """How many slots to have next, where there is room for `room`."""
        return max(32, 2 * have)

    def end_pass(self) -> None:
        """See `Memory`."""

    def step(self, fed: Sequence[Sequence[int]], held: Sequence[int]) -> torch.Tensor:
        """See `Memory`."""
        assert self.slots is not None, "sequences run in slots"
        return self.model.step(fed, held, self.slots)

    def leave(self, number: int, last: int) -> None:
        """See `Memory`."""
        self.running -= 1
        if number < self.running and self.slots is not None:
            self.slots.move(self.running, number, last)
