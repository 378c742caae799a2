"""Numbers that name examples through a stage: in batches, and where something is kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cl_bench.data.examples import Example


class Numbering:
    """The stage's own examples from 0, then the earlier ones, then others as they come.

    Equal examples have one number: that of the first.
    """

    def __init__(self, own: Sequence[Example], earlier: Sequence[Example]) -> None:
        self._given: list[Sequence[Example]] = [own, earlier]
        self._numbers: dict[Example, int] = {}
        self._examples: list[Example] = []

    def __len__(self) -> int:
        """How many have one so far."""
        return len(self._examples)

    def number(self, example: Example) -> int:
        """Its number; a new one for an example that is met for the first time."""
        self._begin()
        if example not in self._numbers:
            self._add([example])
        return self._numbers[example]

    def example(self, number: int) -> Example:
        """The example of a number; raises IndexError for one that was not given."""
        self._begin()
        if not 0 <= number < len(self._examples):
            raise IndexError(f"no example has the number {number}")
        return self._examples[number]

    def _begin(self) -> None:
        """Not before it is needed: most methods never ask, and this reads every text."""
        while self._given:
            self._add(self._given.pop(0))

    def _add(self, examples: Sequence[Example]) -> None:
        for example in examples:
            self._numbers.setdefault(example, len(self._examples))
            self._examples.append(example)
