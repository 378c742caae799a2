"""Counts of requests, and empty continuations, for the model classes of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

EncodePrompts = Callable[[Sequence[str]], list[list[int]]]
"""Token ids of prompts, cut as in training; instead of the tokenizer's own."""
TokenRequest = tuple[Any, list[int], list[int]]
"""(key, context, continuation)."""
ROOM = {"vllm": -1, "vllm-vlm": -1, "sglang": 0}
"""Tokens of context and continuation that a class scores beyond its `max_length`.

`HFLM` and what is derived from it take one more, since the last token is only predicted.
"""
ROOM_OF_HFLM = 1


@dataclass
class RequestCounts:
    """What was asked so far, as in the shared-prefix engine's `Counters`."""

    requests: int = 0
    truncated: int = 0
    empty: int = 0

    def add(self, now: RequestCounts, before: RequestCounts) -> None:
        """Add what another counted since `before`."""
        self.requests += now.requests - before.requests
        self.truncated += now.truncated - before.truncated
        self.empty += now.empty - before.empty


def score_counted(
    requests: Sequence[TokenRequest],
    room: int,
    asked: RequestCounts,
    score: Callable[[list[TokenRequest]], list[tuple[float, bool]]],
) -> list[tuple[float, bool]]:
    """What `score` gives, and (0.0, True) for empty continuations, where lm-eval's classes fail.

    `room`: tokens of context and continuation that are not cut.
    """
    some = [request for request in requests if request[2]]
    asked.requests += len(requests)
    asked.empty += len(requests) - len(some)
    asked.truncated += sum(len(context) + len(rest) > room for _, context, rest in some)
    scores = iter(score(some) if some else [])
    return [next(scores) if request[2] else (0.0, True) for request in requests]


def count_requests(lm: Any, name: str) -> RequestCounts:
    """Count from now on what an `LM` of lm-eval's class `name` is asked, by its own tokens."""
    from lm_eval.models.utils import normalize_gen_kwargs

    asked = RequestCounts()
    score, generate = lm._loglikelihood_tokens, lm.generate_until
    beyond = ROOM.get(name, ROOM_OF_HFLM)

    def _loglikelihood_tokens(
        requests: Sequence[TokenRequest], *args: Any, **options: Any
    ) -> list[tuple[float, bool]]:
        room = lm.max_length + beyond
        return score_counted(requests, room, asked, lambda some: score(some, *args, **options))

    def generate_until(requests: Sequence[Any], *args: Any, **options: Any) -> list[str]:
        asked.requests += len(requests)
        for request in requests:
            text, kwargs = request.args[:2]
            new = normalize_gen_kwargs(kwargs, lm.max_gen_toks)["max_gen_toks"]
            asked.truncated += len(lm.tok_encode(text)) > lm.max_length - new
        texts: list[str] = generate(requests, *args, **options)
        return texts

    lm._loglikelihood_tokens, lm.generate_until = _loglikelihood_tokens, generate_until
    return asked
