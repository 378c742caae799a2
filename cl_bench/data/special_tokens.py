"""Special tokens: what a tokenizer adds around a text by itself, and those that a text spells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

PROBES = ("a", "0", ".", "A text")


@dataclass(frozen=True)
class Added:
    """Token ids that a tokenizer puts before and after a text that is encoded alone."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def without_end(self, ids: list[int]) -> list[int]:
        """`ids`, which were encoded with special tokens, without those that follow the text.

        A prompt that ends in EOS would be a prompt that is over: what comes after it is another
        text. lm-evaluation-harness means tokenizers that put a BOS in front at most.
        """
        end = len(ids) - len(self.after)
        return ids[:end] if self.after and tuple(ids[end:]) == self.after else ids

    def own_prefix(self, text: str, prefix: str) -> str:
        """`text` without the spaces before a BOS of its own, so that it gets no second one.

        Only where the tokenizer adds a BOS; else what the text says is what is encoded.
        """
        stripped = text.lstrip()
        return stripped if self.before and prefix and stripped.startswith(prefix) else text


def added_tokens(tokenizer: Any) -> Added:
    """What `tokenizer` adds by itself, seen on a short text."""
    for probe in PROBES:
        bare = list(tokenizer(probe, add_special_tokens=False)["input_ids"])
        whole = list(tokenizer(probe, add_special_tokens=True)["input_ids"])
        for start in range(len(whole) - len(bare) + 1 if bare else 0):
            if whole[start : start + len(bare)] == bare:
                return Added(tuple(whole[:start]), tuple(whole[start + len(bare) :]))
    return Added()


class SpecialTokens:
    """Finds the special tokens that texts spell out, `</s>` or `<|im_end|>`."""

    def __init__(self, tokenizer: Any) -> None:
        spelled = {str(token) for token in getattr(tokenizer, "all_special_tokens", [])}
        for token in getattr(tokenizer, "added_tokens_decoder", {}).values():
            if token.special:
                spelled.add(str(token))
        longest = sorted(filter(str.strip, spelled), key=lambda token: (-len(token), token))
        self._any = re.compile("|".join(map(re.escape, longest))) if longest else None

    def of(self, text: str) -> list[str]:
        """The special tokens in a text, in order, each as often as it is there."""
        return [] if self._any is None else self._any.findall(text)

    def count(self, texts: Iterable[str]) -> tuple[int, list[str]]:
        """How many texts hold one, and the tokens, the most frequent first."""
        found = [self.of(text) for text in texts]
        tokens = Counter(token for each in found for token in set(each))
        ordered = sorted(tokens, key=lambda token: (-tokens[token], token))
        return sum(map(bool, found)), ordered


def named(tokens: Sequence[str]) -> str:
    """Tokens as a message shows them, the first few."""
    more = f" and {len(tokens) - 4} more" if len(tokens) > 4 else ""
    return ", ".join(f"`{token}`" for token in tokens[:4]) + more
