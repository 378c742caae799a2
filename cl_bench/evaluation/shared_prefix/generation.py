"""Greedy generation in which finished sequences leave and waiting ones take their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cl_bench.evaluation.finite import ask_again, is_distribution
from cl_bench.evaluation.shared_prefix.ahead.block import STEPS
from cl_bench.evaluation.shared_prefix.ahead.memory import AheadMemory
from cl_bench.evaluation.shared_prefix.drawing import Drawing, tokens_at
from cl_bench.evaluation.shared_prefix.fused.memory import StoreMemory
from cl_bench.evaluation.shared_prefix.packed_model import PackedModel
from cl_bench.evaluation.shared_prefix.packing import Pack, PassLimits, packs_of
from cl_bench.evaluation.shared_prefix.prompt_lookup import STREAK, Lookup
from cl_bench.evaluation.shared_prefix.slot_memory import Memory, Room, SlotMemory
from cl_bench.evaluation.shared_prefix.stopping import StopRule
from cl_bench.evaluation.shared_prefix.tree import build_forest

GUESSES = 7
"""Tokens guessed at once for a text that repeats itself."""


@dataclass
class Running:
    """A generation under way; its number is its place in the list of them."""

    request: int
    text: Lookup
    """Prompt and answer so far; the last token's keys are not held yet."""
    prompt: int
    """Tokens of the prompt."""
    longest: int
    """Tokens that prompt and answer may have together."""

    @property
    def held(self) -> int:
        """Tokens whose keys and values are held."""
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
    drawing: Drawing | None = None,
) -> tuple[list[list[int]], set[int]]:
    """New tokens for every prompt (non-empty; `max_new_tokens` at least 1), argmax of fp32 logits.

    With them the prompts whose answer ends where logits are no numbers. `drawing` takes other
    tokens than the argmax: by what it is asked for, never by when. `progress` is called with the
    number of prompts that are finished.
    """
    answers, bad = _generate(model, tokenizer, prompts, rules, limits, room, progress, drawing)

    def alone(i: int) -> list[int] | None:
        own = None if drawing is None else drawing.of(i)
        one = _generate(model, tokenizer, [prompts[i]], [rules[i]], limits, room, None, own)
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
    drawing: Drawing | None,
) -> tuple[list[list[int]], set[int]]:
    new = [rule.max_new_tokens for rule in rules]
    packs = list(packs_of(build_forest(prompts), limits))
    memory = memory_for(model, packs, prompts, new, room, drawing)
    decoder = Decoder(model, tokenizer, prompts, rules, memory, drawing)
    packs.reverse()
    while packs or decoder.running:
        while packs and decoder.has_room(packs[-1]):
            decoder.prefill(packs.pop())
        decoder.step()
        if progress is not None:
            progress(decoder.finished)
    return decoder.answers, decoder.bad


def memory_for(
    model: PackedModel,
    packs: Sequence[Pack],
    prompts: Sequence[Sequence[int]],
    new: Sequence[int],
    room: Room,
    drawing: Drawing | None = None,
) -> Memory:
    """A store for fused layers, else slots."""
    if model.fused is not None:
        return StoreMemory(model.fused, packs, new, room, model.counters)
    longest = [len(p) + n for p, n in zip(prompts, new, strict=True)]
    if model.ahead:
        return AheadMemory(model, longest, room, drawing)
    return SlotMemory(model, longest, room)


class Decoder:
    """The state of `generate_tokens`: who runs, and what was found."""

    def __init__(
        self,
        model: PackedModel,
        tokenizer: Any,
        prompts: Sequence[Sequence[int]],
        rules: Sequence[StopRule],
        memory: Memory,
        drawing: Drawing | None = None,
    ) -> None:
        self.drawing = drawing
        self.model, self.tokenizer, self.memory = model, tokenizer, memory
        self.prompts, self.rules = prompts, rules
        self.longest = [
            len(prompt) + rule.max_new_tokens for prompt, rule in zip(prompts, rules, strict=True)
        ]
        self.answers: list[list[int]] = [[] for _ in prompts]
        self.bad: set[int] = set()
        """Prompts that came to logits which are no numbers."""
        self.running: list[Running] = []
        self.finished = 0

    def has_room(self, pack: Pack) -> bool:
        """Whether the sequences that a pass ends fit beside the running ones."""
        return self.memory.has_room(pack, [each.longest for each in self.running])

    def prefill(self, pack: Pack) -> None:
        """Run a pass; sequences that end in it get their first token, and go on."""
        ending, logits = self.memory.prefill(pack)
        picked = self._chosen(logits, [(request, 0) for _, request in ending])
        fine = is_distribution(logits, picked).tolist()
        for (place, request), token, sound in zip(ending, picked.tolist(), fine, strict=True):
            if not sound:
                self.bad.add(request)
            if not self._ended(request, [token]):
                self.memory.start(place, request)
                text = Lookup(self.prompts[request])
                text.append(token)
                prompt = len(self.prompts[request])
                self.running.append(Running(request, text, prompt, self.longest[request]))
        self.memory.end_pass()

    def _chosen(self, logits: torch.Tensor, places: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Tokens [N] of logits [N, V], given each one's request and place among its new tokens."""
        if self.drawing is None:
            return self.model.largest(logits)
        return tokens_at(logits, self.drawing.points(places), self.drawing.temperature)

    def step(self) -> None:
        """More tokens for every running sequence: one, or those guessed right, or some ahead."""
        if not self.running:
            return
        if isinstance(self.memory, AheadMemory):
            self._steps_ahead(self.memory)
        else:
            self._step()
        for slot in reversed(range(len(self.running))):
            running = self.running[slot]
            if self._ended(running.request, running.text.tokens[running.prompt :]):
                self._leave(slot)

    def _steps_ahead(self, memory: AheadMemory) -> None:
        count = min(STEPS, max(each.longest - len(each.text.tokens) for each in self.running))
        last = [each.text.tokens[-1] for each in self.running]
        places = [(each.request, len(each.text.tokens) - each.prompt) for each in self.running]
        chosen, fine = memory.ahead(last, [each.held for each in self.running], places, count)
        self.model.counters.steps += count
        for each, first, tokens, sound in zip(self.running, last, chosen, fine, strict=True):
            self._take(each, [first, *tokens[:-1]], tokens, sound)

    def _step(self) -> None:
        fed = [[each.text.tokens[-1], *each.text.guess(each.guesses)] for each in self.running]
        logits = self.memory.step(fed, [each.held for each in self.running])
        self.model.counters.steps += 1
        places = [
            (each.request, len(each.text.tokens) - each.prompt + i)
            for each, given in zip(self.running, fed, strict=True)
            for i in range(len(given))
        ]
        picked = self._chosen(logits, places)
        fine = is_distribution(logits, picked).tolist()
        chosen, at = picked.tolist(), 0
        for each, given in zip(self.running, fed, strict=True):
            end = at + len(given)
            self._take(each, given, chosen[at:end], fine[at:end])
            at = end

    def _take(
        self, each: Running, given: list[int], chosen: list[int], fine: Sequence[bool | int]
    ) -> None:
        """Add the tokens chosen after each of `given`, as far as these were guessed right."""
        rule = self.rules[each.request]
        for i, token in enumerate(chosen):
            if not fine[i]:
                self.bad.add(each.request)
                return
            each.text.append(token)
            self.model.counters.decoded_tokens += 1
            self.model.counters.guessed_tokens += i > 0 and not self.model.ahead
            if i + 1 == len(given) or token != given[i + 1]:
                return
            if rule.ended(self.tokenizer, each.text.tokens[each.prompt :]):
                return

    def _ended(self, request: int, tokens: list[int]) -> bool:
        ended = request in self.bad or self.rules[request].ended(self.tokenizer, tokens)
        if ended:
            self.answers[request] = tokens
            self.finished += 1
        return ended

    def _leave(self, number: int) -> None:
        """Give a number to the last of the running sequences, so that they stay side by side."""
        last = self.running.pop()
        self.memory.leave(number, last.held)
        if number < len(self.running):
            self.running[number] = last
