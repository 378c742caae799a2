"""Cutting a prompt to its budget: the one function that training and scoring share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Truncation = Literal["left", "keep_instruction", "trace"]

LABEL_CHARACTERS = 40
"""A line that names the body is no longer; TRACE's longest is `Meeting transcripts:`."""

_LINE = re.compile(r"[^\n]*\n")


def truncate_prompt(
    prompt_ids: Sequence[int], limit: int, mode: Truncation, *, head: int = 0, cue: int = 0
) -> list[int]:
    """At most `limit` tokens of a prompt; a prompt that fits is returned as it is.

    `left` and `trace` keep the last `limit` tokens. `keep_instruction` keeps the first `head`
    tokens (the instruction) and the last `limit - head`, which end in the closing cue, so that
    the middle is cut; `head` and `cue` are token counts as `instruction_and_cue` gives them for
    the text. The instruction is given up, and the mode is `left`, where it cannot be told from
    the body (it is more than half of the prompt) or where it and the cue do not fit together.
    """
    if limit < 1:
        raise ValueError(f"a prompt needs at least 1 token, got a limit of {limit}")
    ids = list(prompt_ids)
    start, stop = cut_of(len(ids), limit, mode, head=head, cue=cue)
    return ids[:start] + ids[stop:]


def cut_of(
    length: int, limit: int, mode: Truncation, *, head: int = 0, cue: int = 0
) -> tuple[int, int]:
    """Which tokens `truncate_prompt` takes out of so many: the first, and the first that stays."""
    if length <= limit:
        return 0, 0
    keep = head if mode == "keep_instruction" and _is_instruction(length, limit, head, cue) else 0
    return keep, length - (limit - keep)


def _is_instruction(length: int, limit: int, head: int, cue: int) -> bool:
    return head < limit and 2 * head <= length and head + cue <= limit


def instruction_and_cue(prompt: str) -> tuple[int, int]:
    """Where the instruction ends and where the closing cue begins, in characters.

    The instruction is the first line, with the lines after it that are blank or short and end in
    a colon (`Text:`, `文本：`: they name the body; a paragraph that ends in a colon does not).
    The closing cue is the last line that is not blank (`Stance:`), with the newline before it,
    when it ends in a colon; else there is none and it begins at the prompt's end. A prompt of one
    line has neither (Py150's are one line of code).
    """
    first = _LINE.match(prompt)
    if first is None:
        return 0, len(prompt)
    end = first.end()
    while (line := _LINE.match(prompt, end)) and _names_the_body(line.group()):
        end = line.end()
    text = prompt.rstrip()
    return end, max(text.rfind("\n"), end) if _names_the_body(text[-1:]) else len(prompt)


def _names_the_body(line: str) -> bool:
    text = line.strip()
    return not text or (len(text) <= LABEL_CHARACTERS and text.endswith((":", "：")))
