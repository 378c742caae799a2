"""Greedy generation in which finished sequences leave and waiting ones take their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from cl_bench.evaluation.forward import PackedModel, crop
from cl_bench.evaluation.packing import Layout, Limits, Pack, Placed, lay_out, plan
from cl_bench.evaluation.prefix_tree import build_forest
from cl_bench.evaluation.slots import SlotCache
from cl_bench.evaluation.stopping import StopRule


@dataclass(frozen=True)
class Room:
    """What may be decoded at once."""

    sequences: int
    cache_bytes: int


@dataclass
class Running:
    """A generation under way; its slot is its place in the list of them."""

    request: int
    length: int
    """Tokens whose keys and values the slot holds."""
    tokens: list[int]
    longest: int
    """Tokens that the slot may come to hold."""


def generate_greedy(
    model: PackedModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    rules: Sequence[StopRule],
    limits: Limits,
    room: Room,
    progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """New tokens for every prompt (non-empty; `max_new_tokens` at least 1), argmax of fp32 logits.

    `progress` is called with the number of prompts that are finished.
    """
    decoder = Decoder(model, tokenizer, prompts, rules, room)
    packs = plan(build_forest(prompts), limits)
    waiting = next(packs, None)
    while waiting is not None or decoder.running:
        while waiting is not None and decoder.has_room(waiting):
            decoder.prefill(waiting)
            waiting = next(packs, None)
        decoder.step()
        if progress is not None:
            progress(decoder.finished)
    return decoder.answers


class Decoder:
    """The state of `generate_greedy`: the trunk, the slots, and who is in them."""

    def __init__(
        self,
        model: PackedModel,
        tokenizer: Any,
        prompts: Sequence[Sequence[int]],
        rules: Sequence[StopRule],
        room: Room,
    ) -> None:
        self.model, self.tokenizer, self.rules, self.room = model, tokenizer, rules, room
        self.longest = [
            len(prompt) + rule.max_new_tokens for prompt, rule in zip(prompts, rules, strict=True)
        ]
        self.answers: list[list[int]] = [[] for _ in prompts]
        self.running: list[Running] = []
        self.finished = 0
        self.trunk = DynamicCache()
        self.slots: SlotCache | None = None

    def has_room(self, pack: Pack) -> bool:
        """Whether the sequences that a pass ends fit beside the running ones."""
        new = [self.longest[request] for _, request in _ending(lay_out(pack))]
        if not new or not self.running or self.slots is None:
            return True
        n = len(self.running) + len(new)
        columns = max([*new, *(each.longest for each in self.running)])
        size = n * columns * self.slots.bytes_per_token
        return n <= self.room.sequences and size <= self.room.cache_bytes

    def prefill(self, pack: Pack) -> None:
        """Run a pass; sequences that end in it get their first token, and a slot to go on."""
        layout = lay_out(pack)
        ending = list(_ending(layout))
        width = layout.ids.shape[1]
        keep = [place.row * width + place.columns[-1] for place, _ in ending]
        on_trunk = pack.trunk or pack.past > 0
        crop(self.trunk, pack.past)
        cache = self.trunk if on_trunk else DynamicCache()
        logits = self.model.run(layout, np.asarray(keep, dtype=np.int64), cache)
        first = logits.float().argmax(dim=-1).tolist()
        for (place, request), token in zip(ending, first, strict=True):
            if not self._ended(request, [token]):
                columns = np.concatenate(
                    [np.arange(pack.past)]
                    + [layout.placed[i].columns + pack.past for i in place.path]
                )
                self._start(request, token, cache, place.row, torch.from_numpy(columns))

    def step(self) -> None:
        """One more token for every running sequence."""
        if not self.running or self.slots is None:
            return
        device = self.model.device
        lengths = torch.tensor([each.length for each in self.running], device=device)
        ids = torch.tensor([each.tokens[-1] for each in self.running], device=device)
        width = max(each.length for each in self.running) + 1
        self.slots.reserve(0, width)
        look = torch.arange(width, device=device)[None] <= lengths[:, None]
        logits = self.model.step(ids, lengths, look, self.slots.at(lengths, width))
        chosen = logits.float().argmax(dim=-1).tolist()
        for each, token in zip(self.running, chosen, strict=True):
            each.length += 1
            each.tokens.append(token)
        for slot in reversed(range(len(self.running))):
            if self._ended(self.running[slot].request, self.running[slot].tokens):
                self._leave(slot)

    def _start(
        self, request: int, token: int, cache: DynamicCache, row: int, columns: torch.Tensor
    ) -> None:
        if self.slots is None:
            self.slots = SlotCache(cache)
        self.slots.reserve(len(self.running) + 1, len(columns) + 1)
        self.slots.fill(len(self.running), cache, row, columns)
        longest = self.longest[request]
        self.running.append(Running(request, len(columns), [token], longest))

    def _ended(self, request: int, tokens: list[int]) -> bool:
        ended = self.rules[request].ended(self.tokenizer, tokens)
        if ended:
            self.answers[request] = tokens
            self.finished += 1
        return ended

    def _leave(self, slot: int) -> None:
        """Give a slot to the last of the running sequences, so that they stay side by side."""
        last = self.running.pop()
        if slot < len(self.running) and self.slots is not None:
            self.slots.move(len(self.running), slot, last.length)
            self.running[slot] = last


def _ending(layout: Layout) -> Iterator[tuple[Placed, int]]:
    """Prompts whose last token a pass computes for the first time, and where."""
    for placed in layout.placed:
        if placed.first:
            yield from ((placed, request) for request in placed.segment.ends)
