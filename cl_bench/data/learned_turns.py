"""Conversations of several turns: which of their prompt is learned beside the answer.

A prompt holds what the assistant said before. Each of these turns is learned as the last one is:
its text, and the token that ends it. Where the template marks the assistant's part
(`{% generation %}`) its marks say what that is; else the conversation is rendered up to each turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from cl_bench.data.chat import Chat

Span = tuple[int, int]
"""First and behind the last: of characters in a prompt, or of its tokens."""


def answers_before(roles: Sequence[str]) -> list[int]:
    """Which turns the assistant answered the user with, the last turn left out."""
    return [i for i, role in enumerate(roles[:-1]) if role == "assistant" and "user" in roles[:i]]


def learned_before(chat: Chat, turns: Sequence[Mapping[str, str]], prompt: str) -> tuple[Span, ...]:
    """Characters of `prompt` that are earlier answers with what ends them, in order.

    `turns`: a row's, of which `prompt` shows all but the last. A turn that the template renders
    otherwise once others follow (it drops a model's reasoning) is left out, since no model is asked
    for it in that form.
    """
    if not answers_before([turn["role"] for turn in turns]):
        return ()
    asked = chat.asked(turns)
    return tuple(_marked(chat, asked, prompt) if chat.marks else _rendered(chat, asked, prompt))


def _marked(chat: Chat, asked: Sequence[Mapping[str, str]], prompt: str) -> Iterator[Span]:
    encoded = chat.tokenizer.apply_chat_template(
        [dict(turn) for turn in asked],
        add_generation_prompt=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    inside = zip(_offsets(chat.tokenizer, prompt), encoded["assistant_masks"], strict=True)
    for marked, run in groupby(inside, key=lambda one: one[1]):
        if marked:
            places = [place for place, _ in run]
            yield places[0][0], places[-1][1]


def _rendered(chat: Chat, asked: Sequence[Mapping[str, str]], prompt: str) -> Iterator[Span]:
    for i in answers_before([*(turn["role"] for turn in asked), "assistant"]):
        before, content = chat.render_all(asked[:i]), asked[i]["content"]
        for text in (content, content.strip(), _shown(chat, asked[: i + 1], before)):
            if text is not None and prompt.startswith(before + text + chat.frame.end):
                yield len(before), len(before + text + chat.frame.end)
                break


def _shown(chat: Chat, turns: Sequence[Mapping[str, str]], before: str) -> str | None:
    """What the template makes of the last turn's text; None where it changes what is before."""
    whole, end = chat.render_all(turns, False), chat.frame.end
    if not whole.startswith(before):
        return None
    text = whole[len(before) :]
    return text.rpartition(end)[0] if end and end in text else text


def token_spans(tokenizer: Any, text: str, spans: Sequence[Span]) -> list[Span]:
    """Tokens of a text that lie within each span of its characters; one across a border does not.

    The text gets no special tokens of the tokenizer's own. A tokenizer without offsets is asked for
    the beginnings of the text.
    """
    if not tokenizer.is_fast:

        def tokens(end: int) -> int:
            return len(tokenizer(text[:end], add_special_tokens=False)["input_ids"])

        return [(tokens(start), tokens(stop)) for start, stop in spans]
    offsets = _offsets(tokenizer, text)
    found = []
    for start, stop in spans:
        inside = [i for i, (a, b) in enumerate(offsets) if start <= a < b <= stop]
        if inside:
            found.append((inside[0], inside[-1] + 1))
    return found


def _offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Characters of every token."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    found: list[tuple[int, int]] = encoded["offset_mapping"]
    return found
