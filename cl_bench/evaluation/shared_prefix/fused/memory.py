"""Keys and values of generations in one store, computed by fused layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cl_bench.evaluation.shared_prefix.fused.jobs import (
    WORTH_SHARING,
    JobList,
    decoding_jobs,
    ranges_of,
)
from cl_bench.evaluation.shared_prefix.fused.layers import FusedLayers, Pass
from cl_bench.evaluation.shared_prefix.fused.store import Extent, bytes_per_token
from cl_bench.evaluation.shared_prefix.packed_model import Counters
from cl_bench.evaluation.shared_prefix.packing import Pack, Placed, in_one_row
from cl_bench.evaluation.shared_prefix.slot_memory import Room, ending


class StoreMemory:
    """A `Memory`: every sequence is a list of extents, the last of which it has for itself."""

    def __init__(
        self,
        layers: FusedLayers,
        packs: Sequence[Pack],
        new: Sequence[int],
        room: Room,
        counters: Counters,
        worth_sharing: int = WORTH_SHARING,
    ) -> None:
        """`new`: tokens that each request may get; `packs`: the passes that will be asked for."""
        self.layers, self.new, self.counters = layers, new, counters
        self.sequences, self.worth_sharing = room.sequences, worth_sharing
        size = bytes_per_token(len(layers.layers), layers.heads, layers.model.dtype)
        needs = sum(self._need(in_one_row(pack)) for pack in packs)
        self.store = layers.store(min(needs, room.cache_bytes // size))
        self.trunk: list[Extent] = []
        self.running: list[list[Extent]] = []
        self._pass: tuple[Pack, list[Placed], list[Extent], dict[int, Extent]] | None = None

    def _need(self, placed: Sequence[Placed]) -> int:
        tokens = sum(len(place.segment.tokens) for place in placed)
        return tokens + sum(self.new[request] for _, request in ending(placed))

    def has_room(self, pack: Pack, running: Sequence[int]) -> bool:
        """Whether a pass's keys fit, and its sequences; then they have their places."""
        self._crop(pack.past)
        placed = in_one_row(pack)
        new = len(list(ending(placed)))
        if running and len(running) + new > self.sequences:
            return False
        while not self._placed(pack, placed):
            if running:
                return False
            self.store.grow(self._need(placed))
        return True

    def _crop(self, past: int) -> None:
        """Keep `past` tokens of the trunk, which end where an extent ends."""
        held = sum(extent.length for extent in self.trunk)
        while held > past:
            last = self.trunk.pop()
            held -= last.length
            self.store.release([last])

    def _placed(self, pack: Pack, placed: list[Placed]) -> bool:
        """Find places for a pass's pieces, each with room behind it for an answer."""
        extents: list[Extent] = []
        own: dict[int, Extent] = {}
        for place in placed:
            length = len(place.segment.tokens)
            requests = list(place.segment.ends) if place.first else []
            for i, request in enumerate(requests or [None]):
                new = 0 if request is None else self.new[request]
                before = length if i == 0 else 0
                start = self.store.places.take(before + new)
                if start is None:
                    self._give_back([*extents, *own.values()])
                    return False
                if i == 0:
                    extents.append(Extent(start, length, length))
                if request is not None:
                    own[request] = Extent(start + before, new, 0)
        self._pass = pack, placed, extents, own
        return True

    def _give_back(self, extents: Sequence[Extent]) -> None:
        for extent in extents:
            if not extent.users:
                self.store.places.give_back(extent.start, extent.room)

    def prefill(self, pack: Pack) -> tuple[list[tuple[Placed, int]], Tensor]:
        """See `Memory`."""
        assert self._pass is not None and self._pass[0] is pack, "asked for room before"
        _, placed, extents, _ = self._pass
        jobs = JobList(self.layers.heads)
        tokens: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        ends: list[int] = []
        for place, extent in zip(placed, extents, strict=True):
            path = [*self.trunk, *(extents[i] for i in place.path)]
            jobs.add_rows(len(tokens), extent.length, ranges_of(path))
            tokens += place.segment.tokens.tolist()
            positions += range(place.segment.start, place.segment.end)
            places += range(extent.start, extent.start + extent.length)
            ends.append(len(tokens) - 1)
        by_place = {id(place): end for place, end in zip(placed, ends, strict=True)}
        found = list(ending(placed))
        keep = [by_place[id(place)] for place, _ in found]
        logits = self._run(tokens, positions, places, jobs, keep or ends[-1:])
        self.counters.passes += 1
        self.counters.computed_tokens += len(tokens)
        if pack.trunk:
            for extent in extents:
                extent.users += 1
            self.trunk += extents
        return found, logits[: len(keep)]

    def _run(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        places: Sequence[int],
        jobs: JobList,
        keep: Sequence[int] | None,
    ) -> Tensor:
        kept = None if keep is None else torch.tensor(keep)
        offsets = torch.tensor(places) * self.layers.heads.size
        told = Pass(self.store, offsets, jobs.made(), kept)
        with self.layers.in_place():
            return self.layers.run(tokens, positions, told)

    def start(self, place: Placed, request: int) -> None:
        """See `Memory`."""
        assert self._pass is not None, "after a pass"
        pack, _, extents, own = self._pass
        # A pass that extends the trunk has put its own pieces there.
        path = [] if pack.trunk else [extents[i] for i in place.path]
        sequence = [*self._above(pack, place, extents), *path, own[request]]
        for extent in sequence:
            extent.users += 1
        self.running.append(sequence)

    def _above(self, pack: Pack, place: Placed, extents: Sequence[Extent]) -> list[Extent]:
        """The trunk, of a pass that extends it up to the piece."""
        if not pack.trunk:
            return self.trunk
        below = len(extents) - len(place.path)
        return self.trunk[: len(self.trunk) - below]

    def end_pass(self) -> None:
        """Places of what nobody looks at any more are free."""
        assert self._pass is not None, "after a pass"
        _, _, extents, own = self._pass
        self._give_back([*extents, *own.values()])
        self._pass = None

    def step(self, fed: Sequence[Sequence[int]], held: Sequence[int]) -> Tensor:
        """See `Memory`."""
        places: list[int] = []
        for new, length, extents in zip(fed, held, self.running, strict=True):
            own = extents[-1]
            own.length = length + len(new) - sum(extent.length for extent in extents[:-1])
            end = own.start + own.length
            places += range(end - len(new), end)
        jobs = decoding_jobs(
            self.layers.heads, self.running, list(map(len, fed)), self.worth_sharing
        )
        tokens = [token for new in fed for token in new]
        positions = [
            length + i for new, length in zip(fed, held, strict=True) for i in range(len(new))
        ]
        return self._run(tokens, positions, places, jobs, None)

    def leave(self, number: int, last: int) -> None:
        """See `Memory`."""
        self.store.release(self.running[number])
        moved = self.running.pop()
        if number < len(self.running):
            self.running[number] = moved
