"""Ids of texts, with special tokens as lm-evaluation-harness's `HFLM.tok_encode` has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cl_bench.data.special_tokens import added_tokens
from cl_bench.errors import UserError


def eos_token(tokenizer: Any) -> int:
    """The id that ends an answer. Raises UserError when the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise UserError("the model's tokenizer has no EOS token: an answer could not be ended")
    return int(tokenizer.eos_token_id)


def prefix_token(tokenizer: Any) -> int:
    """What a text is conditioned on when nothing precedes it: BOS, else EOS."""
    return int(eos_token(tokenizer) if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def encode(tokenizer: Any, texts: Sequence[str], special: bool = True) -> list[list[int]]:
    """Ids of each text, with special tokens as `HFLM.tok_encode` adds them, or without any."""
    if not texts:
        return []
    groups: dict[bool, list[str]] = {}
    for text in dict.fromkeys(texts):
        groups.setdefault(special and gets_special_tokens(tokenizer, text), []).append(text)
    encoded: dict[str, list[int]] = {}
    for add, group in groups.items():
        ids = tokenizer(group, add_special_tokens=add, return_attention_mask=False, verbose=False)
        rows = ids["input_ids"]
        if add and (added := added_tokens(tokenizer)).after:
            rows = [added.without_end(row) for row in rows]
        encoded.update(zip(group, rows, strict=True))
    return [encoded[text] for text in texts]


def own_prefix(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Texts whose own BOS stands behind spaces begin with it: one BOS is enough."""
    added, prefix = added_tokens(tokenizer), tokenizer.decode([prefix_token(tokenizer)])
    return [added.own_prefix(text, prefix) for text in texts]


def gets_special_tokens(tokenizer: Any, text: str) -> bool:
    prefix: str = tokenizer.decode([prefix_token(tokenizer)])
    return not text.startswith(prefix)
