"""Guessing the next tokens of a text from its own past.

Greedy text repeats itself: lists, copied passages, and the loops of small models. While looking up
what followed the last few tokens before has been right several times in a row, the next tokens are
guessed that way and checked in one forward pass: "prompt lookup", a draft without a draft model.
The checked tokens are the argmax all the same, so the text does not change.
"""

from __future__ import annotations

from collections.abc import Sequence

GRAM = 3
"""Tokens that are looked up."""
STREAK = 6
"""Lookups that must have been right in a row before any token is guessed."""


class Lookup:
    """A text, with the place that its last `GRAM` tokens had before."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens: list[int] = []
        self.streak = 0
        self._after: dict[tuple[int, ...], int] = {}
        self._source: int | None = None
        for token in tokens:
            self.append(token)
        self.streak = 0

    def append(self, token: int) -> None:
        """Add the next token, and note whether the lookup would have said so."""
        source = self._source
        right = source is not None and self.tokens[source] == token
        self.streak = self.streak + 1 if right else 0
        self.tokens.append(token)
        gram = tuple(self.tokens[-GRAM:])
        self._source = self._after.get(gram)
        self._after[gram] = len(self.tokens)

    def guess(self, n: int) -> list[int]:
        """The next n tokens, if they go on as they did; anything if nothing is known."""
        if self._source is None:
            return [self.tokens[-1]] * n
        # A repetition that reaches the end goes round again.
        period = self.tokens[self._source :]
        return [period[i % len(period)] for i in range(n)]
