"""Greedy generation in which finished sequences leave and waiting ones take their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from cl_bench.evaluation.finite import ask_again, is_distribution
from cl_bench.evaluation.shared_prefix.kv_slots import SlotCache
from cl_bench.evaluation.shared_prefix.packed_model import PackedModel, crop
from cl_bench.evaluation.shared_prefix.packing import (
    Pack,
    PackLayout,
    PassLimits,
    Placed,
    lay_out,
    packs_of,
)
from cl_bench.evaluation.shared_prefix.prompt_lookup import STREAK, Lookup
from cl_bench.evaluation.shared_prefix.stopping import StopRule
from cl_bench.evaluation.shared_prefix.tree import build_forest


@dataclass(frozen=True)
class Room:
    """What may be decoded at once."""

    sequences: int
    cache_bytes: int


Choose = Callable[[torch.Tensor, Sequence[tuple[int, int]]], torch.Tensor]
"""Tokens [N] of logits [N, V], given each one's request and place among its new tokens."""
GUESSES = 7
"""Tokens guessed at once for a text that repeats itself."""


@dataclass
class Running:
    """A generation under way; its slot is its place in the list of them."""

    request: int
    text: Lookup
    """Prompt and answer so far; the last token's keys are not in the slot yet."""
    prompt: int
    """Tokens of the prompt."""
    longest: int
    """Tokens that prompt and answer may have together."""

    @property
    def held(self) -> int:
        """Tokens whose keys and values the slot holds."""
        return len(self.text.tokens) - 1

    @property
    def guesses(self) -> int:
        """How many tokens to guess in the next step."""
        sure = self.text.streak >= STREAK
        return GUESSES if sure and self.held + 1 + GUESSES <= self.longest else 0


def generate_tokens(
    model: PackedModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    rules: Sequence[StopRule],
    limits: PassLimits,
    room: Room,
    progress: Callable[[int], None] | None = None,
    choose: Choose | None = None,
) -> tuple[list[list[int]], set[int]]:
    """New tokens for every prompt (non-empty; `max_new_tokens` at least 1), argmax of fp32 logits.

    With them the prompts whose answer ends where logits are no numbers. `choose` takes other tokens
    than the argmax: by what it is asked for, never by when. `progress` is called with the number of
    prompts that are finished.
    """
    answers, bad = _generate(model, tokenizer, prompts, rules, limits, room, progress, choose)

    def alone(i: int) -> list[int] | None:
        def own(logits: torch.Tensor, places: Sequence[tuple[int, int]]) -> torch.Tensor:
            assert choose is not None
            return choose(logits, [(i, place) for _, place in places])

        chooser = None if choose is None else own
        one = _generate(model, tokenizer, [prompts[i]], [rules[i]], limits, room, None, chooser)
        return None if one[1] else one[0][0]

    again = ask_again(sorted(bad), alone)
    for i, answer in again.items():
        answers[i] = answer
    return answers, bad - again.keys()


def _generate(
    model: PackedModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    rules: Sequence[StopRule],
    limits: PassLimits,
    room: Room,
    progress: Callable[[int], None] | None,
    choose: Choose | None,
) -> tuple[list[list[int]], set[int]]:
    decoder = Decoder(model, tokenizer, prompts, rules, room, choose)
    packs = packs_of(build_forest(prompts), limits)
    waiting = next(packs, None)
    while waiting is not None or decoder.running:
        while waiting is not None and decoder.has_room(waiting):
            decoder.prefill(waiting)
            waiting = next(packs, None)
        decoder.step()
        if progress is not None:
            progress(decoder.finished)
    return decoder.answers, decoder.bad


class Decoder:
    """The state of `generate_tokens`: the trunk, the slots, and who is in them."""

    def __init__(
        self,
        model: PackedModel,
        tokenizer: Any,
        prompts: Sequence[Sequence[int]],
        rules: Sequence[StopRule],
        room: Room,
        choose: Choose | None = None,
    ) -> None:
        self.choose = choose or (lambda logits, places: logits.argmax(-1))
        self.model, self.tokenizer, self.room = model, tokenizer, room
        self.prompts, self.rules = prompts, rules
        self.longest = [
            len(prompt) + rule.max_new_tokens for prompt, rule in zip(prompts, rules, strict=True)
        ]
        self.answers: list[list[int]] = [[] for _ in prompts]
        self.bad: set[int] = set()
        """Prompts that came to logits which are no numbers."""
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
        places = [(request, 0) for _, request in ending]
        picked = self.choose(logits, places)
        fine = is_distribution(logits, picked).tolist()
        for (place, request), token, sound in zip(ending, picked.tolist(), fine, strict=True):
            if not sound:
                self.bad.add(request)
            if not self._ended(request, [token]):
                columns = np.concatenate(
                    [np.arange(pack.past)]
                    + [layout.placed[i].columns + pack.past for i in place.path]
                )
                self._start(request, token, cache, place.row, torch.from_numpy(columns))

    def step(self) -> None:
        """One more token for every running sequence; more for those that guess right."""
        if not self.running:
            return
        assert self.slots is not None, "sequences run in slots"
        fed = [[each.text.tokens[-1], *each.text.guess(each.guesses)] for each in self.running]
        logits = self.model.step(fed, [each.held for each in self.running], self.slots)
        self.model.counters.steps += 1
        places = [
            (each.request, len(each.text.tokens) - each.prompt + i)
            for each, given in zip(self.running, fed, strict=True)
            for i in range(len(given))
        ]
        picked = self.choose(logits, places)
        fine = is_distribution(logits, picked).tolist()
        chosen, at = picked.tolist(), 0
        for each, given in zip(self.running, fed, strict=True):
            end = at + len(given)
            self._take(each, given, chosen[at:end], fine[at:end])
            at = end
        for slot in reversed(range(len(self.running))):
            running = self.running[slot]
            if self._ended(running.request, running.text.tokens[running.prompt :]):
                self._leave(slot)

    def _take(self, each: Running, given: list[int], chosen: list[int], fine: list[bool]) -> None:
        """Add the tokens chosen after each of `given`, as far as these were guessed right."""
        rule = self.rules[each.request]
        for i, token in enumerate(chosen):
            if not fine[i]:
                self.bad.add(each.request)
                return
            each.text.append(token)
            self.model.counters.decoded_tokens += 1
            self.model.counters.guessed_tokens += i > 0
            if i + 1 == len(given) or token != given[i + 1]:
                return
            if rule.ended(self.tokenizer, each.text.tokens[each.prompt :]):
                return

    def _start(
        self, request: int, token: int, cache: DynamicCache, row: int, columns: torch.Tensor
    ) -> None:
        if self.slots is None:
            self.slots = SlotCache(cache)
        if len(self.running) == self.slots.count:
            self._grow()
        self.slots.fill(len(self.running), cache, row, columns)
        text = Lookup(self.prompts[request])
        text.append(token)
        self.running.append(Running(request, text, len(columns), self.longest[request]))

    def _grow(self) -> None:
        """Twice as many slots, as far as there is room and use for them: growing copies all."""
        assert self.slots is not None, "called when a sequence starts"
        have = self.slots.count
        columns = max(self.slots.columns, *self.longest)
        fit = self.room.cache_bytes // (columns * self.slots.bytes_per_token)
        room = min(self.room.sequences, len(self.prompts), fit)
        self.slots.reserve(max(have + 1, min(room, max(32, 2 * have))), columns)

    def _ended(self, request: int, tokens: list[int]) -> bool:
        ended = request in self.bad or self.rules[request].ended(self.tokenizer, tokens)
        if ended:
            self.answers[request] = tokens
            self.finished += 1
        return ended

    def _leave(self, slot: int) -> None:
        """Give a slot to the last of the running sequences, so that they stay side by side."""
        last = self.running.pop()
        if slot < len(self.running) and self.slots is not None:
            self.slots.move(len(self.running), slot, last.held)
            self.running[slot] = last


def _ending(layout: PackLayout) -> Iterator[tuple[Placed, int]]:
    """Prompts whose last token a pass computes for the first time, and where."""
    for placed in layout.placed:
        if placed.first:
            yield from ((placed, request) for request in placed.segment.ends)
