"""Rows whose texts are odd: empty, blank, with special tokens, or changed by the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cl_bench.corpora.token_lengths import TokenBudget

if TYPE_CHECKING:
    from cl_bench.data.rows import Row


@dataclass(frozen=True)
class Oddities:
    """Counts of one split's rows.

    `tokens` are the special tokens found, `changed_answers` the answers that encoding and decoding
    do not give back (None and empty without a tokenizer). A BOS that begins a prompt is not odd.
    """

    empty_prompts: int
    empty_answers: int
    blank_answers: int
    special_prompts: int | None = None
    special_answers: int | None = None
    changed_answers: int | None = None
    tokens: tuple[str, ...] = ()


def oddities(rows: Sequence[Row], budget: TokenBudget | None) -> Oddities:
    """What is odd about these rows, as a tokenizer reads them where one is given."""
    texts = Oddities(
        empty_prompts=sum(not row.prompt for row in rows),
        empty_answers=sum(not row.answer for row in rows),
        blank_answers=sum(bool(row.answer) and not row.answer.strip() for row in rows),
    )
    if budget is None:
        return texts
    from cl_bench.data.special_tokens import SpecialTokens
    from cl_bench.data.tokens import encode_answers

    tokenizer = budget.tokenizer
    special, bos = SpecialTokens(tokenizer), tokenizer.bos_token or ""
    prompts, in_prompts = special.count(row.prompt.lstrip().removeprefix(bos) for row in rows)
    answers, in_answers = special.count(row.answer for row in rows)
    ids = encode_answers(tokenizer, [row.answer for row in rows])
    changed = sum(
        tokenizer.decode(each, skip_special_tokens=True) != row.answer
        for each, row in zip(ids, rows, strict=True)
    )
    return replace(
        texts,
        special_prompts=prompts,
        special_answers=answers,
        changed_answers=changed,
        tokens=tuple(dict.fromkeys([*in_answers, *in_prompts])),
    )


def oddity_findings(split: str, rows: int, odd: Oddities) -> list[str]:
    """The counts that are not 0, as sentences."""
    tokens = ", ".join(f"`{token}`" for token in odd.tokens[:6])
    told = [
        (odd.empty_prompts, "prompts are empty"),
        (odd.empty_answers, "answers are empty: EOS alone is trained"),
        (odd.blank_answers, "answers are blank"),
        (odd.special_answers, f"answers hold special tokens ({tokens}): no generation gives them"),
        (odd.special_prompts, f"prompts hold special tokens ({tokens})"),
        (odd.changed_answers, "answers are another text after encoding and decoding"),
    ]
    return [f"{count} of {rows} {split} {what}" for count, what in told if count]
