"""Rows that are kept from training to be scored: none has a prompt that is trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from cl_bench.data.own_files.conversation import Conversation, Question
from cl_bench.errors import UserError

HOLDOUT_SEED = 0
"""Which rows are held out: the same for every method and every seed of a config."""


def split_off(
    rows: Sequence[Conversation], holdout: float | int, where: str
) -> tuple[list[int], list[int]]:
    """Indices of the rows that are trained on and of those that are scored, both ascending.

    `holdout`: a part of the rows (0 to 1) or a number of them. Rows with equal prompts stay on one
    side, with those whose conversations go on from that prompt. Which prompts are held out is
    decided by a checksum of each, so it does not depend on the order of the file, and rows that are
    added later move few of the others. Raises UserError where
    one side would have no rows.
    """
    wanted = holdout if isinstance(holdout, int) else round(holdout * len(rows))
    groups = _together(rows)
    if wanted < 1:
        raise UserError(f"{where}: holdout: {holdout} of {len(rows)} rows is none")
    if wanted >= len(rows):
        raise UserError(f"{where}: holdout: {holdout} is all of its {len(rows)} rows")
    held: list[int] = []
    for same in sorted(groups, key=lambda same: min(_order(rows[i]) for i in same)):
        if len(held) + len(same) <= wanted:
            held += same
    if not held:
        fewest = min(map(len, groups))
        raise UserError(
            f"{where}: holdout: {holdout} is {wanted} rows, and every prompt stands in {fewest} "
            "rows or more, which stay together: hold out more, or name a file with test:"
        )
    apart = set(held)
    return [i for i in range(len(rows)) if i not in apart], sorted(held)


def prompts(rows: Sequence[Conversation]) -> dict[Question, list[int]]:
    """The rows of every prompt."""
    found: dict[Question, list[int]] = {}
    for i, row in enumerate(rows):
        found.setdefault(row.question, []).append(i)
    return found


def _together(rows: Sequence[Conversation]) -> list[list[int]]:
    """Rows that must be on one side: of one prompt, or with it in the midst of a conversation."""
    groups = prompts(rows)
    side = dict(zip(groups, groups, strict=True))

    def first(question: Question) -> Question:
        while side[question] != question:
            side[question] = side[side[question]]  # shorter for those that come after
            question = side[question]
        return question

    for row in rows:
        for question in row.questions:
            if question in side:
                side[first(row.question)] = first(question)
    found: dict[Question, list[int]] = {}
    for question, same in groups.items():
        found.setdefault(first(question), []).extend(same)
    return list(found.values())


def again(rows: Sequence[Conversation]) -> int:
    """How many rows have a prompt that an earlier row has."""
    return len(rows) - len(prompts(rows))


def _order(row: Conversation) -> str:
    text = json.dumps([HOLDOUT_SEED, row.question])
    return hashlib.sha256(text.encode()).hexdigest()
