"""Prompts within their budget: what of a long one is cut, in a chat template too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_bench.data.encoding import encode, gets_special_tokens, prefix_token
from cl_bench.data.truncation import Truncation, cut_of, instruction_and_cue, truncate_prompt

if TYPE_CHECKING:
    from cl_bench.data.chat import Frame


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt within its budget, and how many tokens were cut."""

    ids: list[int]
    truncated: int
    cut_at: int = 0
    """How many of `ids` stand before what was cut."""

    def places(self, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Where spans of the whole prompt's tokens are; those that lost a token are left out."""
        if not self.truncated:
            return list(spans)
        before = [span for span in spans if span[1] <= self.cut_at]
        after = [span for span in spans if span[0] >= self.cut_at + self.truncated]
        return before + [(a - self.truncated, b - self.truncated) for a, b in after]


def within(
    tokenizer: Any,
    text: str,
    ids: list[int],
    limit: int,
    truncation: Truncation,
    frame: Frame | None = None,
) -> Prompt:
    """A prompt of at most `limit` tokens (1 at least); an empty one becomes the BOS (or EOS).

    `ids`: those of the whole text.
    """
    if not ids:
        return Prompt([prefix_token(tokenizer)], 0)
    if len(ids) <= limit:
        return Prompt(ids, 0)
    if frame is not None:
        return _cut_conversation(tokenizer, text, ids, limit, truncation, frame)
    special = gets_special_tokens(tokenizer, text)
    head, cue = 0, 0
    if truncation != "left":
        head, cue = _tokens_outside(tokenizer, text, ids, instruction_and_cue(text), special)
    return Prompt(truncate_prompt(ids, limit, truncation, head=head, cue=cue), len(ids) - limit)


def _cut_conversation(
    tokenizer: Any, text: str, ids: list[int], limit: int, truncation: Truncation, frame: Frame
) -> Prompt:
    """What a template puts around a conversation stays where it fits.

    Of several questions the oldest go first, whole and with their answers. A last one that is too
    long alone is cut itself.
    """
    begin, end = _question(text, frame)
    head, tail = _tokens_outside(tokenizer, text, ids, (begin, end), special=False)
    if head + tail >= limit:
        return Prompt(truncate_prompt(ids, limit, "left"), len(ids) - limit)
    again = re.finditer(re.escape(frame.again), text[:end]) if frame.again else ()
    first = head
    for begin in (one.end() for one in again):
        first = _tokens_outside(tokenizer, text, ids, (begin, end), special=False)[0]
        if head + len(ids) - first <= limit:
            return Prompt([*ids[:head], *ids[first:]], first - head, head)
    instruction, cue = (0, 0)
    if truncation == "keep_instruction":
        inner = tuple(begin + at for at in instruction_and_cue(text[begin:end]))
        outside = _tokens_outside(tokenizer, text, ids, (inner[0], inner[1]), special=False)
        instruction, cue = max(0, outside[0] - first), max(0, outside[1] - tail)
    question = ids[first : len(ids) - tail]
    start, stop = cut_of(len(question), limit - head - tail, truncation, head=instruction, cue=cue)
    kept = [*ids[:head], *question[:start], *question[stop:], *ids[len(ids) - tail :]]
    return Prompt(kept, len(ids) - len(kept), head)


def _question(text: str, frame: Frame) -> tuple[int, int]:
    """Where the first question begins and the last one ends, in characters.

    A conversation with a system's turn of its own does not begin as the others do.
    """
    begin = len(frame.head) if text.startswith(frame.head) else 0
    if not begin and frame.opening in text:
        begin = text.index(frame.opening) + len(frame.opening)
    return begin, len(text) - (len(frame.tail) if text.endswith(frame.tail) else 0)


def _tokens_outside(
    tokenizer: Any, text: str, ids: list[int], between: tuple[int, int], special: bool
) -> tuple[int, int]:
    """How many tokens hold what stands before and after a part of a text, given in characters.

    Those across its borders are counted; a tokenizer without offsets is asked for the two texts
    apart, which may be off by a token.
    """
    end, begin = between
    if not tokenizer.is_fast:
        return (
            len(encode(tokenizer, [text[:end]], special)[0]) if end else 0,
            len(encode(tokenizer, [text[begin:]], special=False)[0]) if text[begin:] else 0,
        )
    offsets = tokenizer(
        text, add_special_tokens=special, return_offsets_mapping=True, verbose=False
    )["offset_mapping"]
    real = [(i, start, stop) for i, (start, stop) in enumerate(offsets) if stop > start]
    head: int = next((i for i, start, _ in real if start >= end), len(ids)) if end else 0
    first: int = next((i for i, _, stop in real if stop > begin), len(ids))
    return head, len(ids) - first
