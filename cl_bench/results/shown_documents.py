"""Documents that changed: which of them are shown, and what they ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cl_bench.results.compare import Key, Pair, TaskDiff

Which = Literal["forgotten", "learned", "both"]


@dataclass(frozen=True)
class Wording:
    """What a document asks, in words."""

    question: str
    """Its prompt without worked examples."""
    prompt: str
    """All that the model was given, as lm-eval has it; of whole prompts the one of choice 0."""
    choices: tuple[str, ...] = ()
    """Empty where answers are generated."""
    gold: str | None = None
    """The right answer as text, the first of several; None where the task names none."""
    gold_choice: int | None = None


@dataclass(frozen=True)
class Changed:
    """Documents of a task that changed in one direction."""

    task: str
    kind: Literal["forgotten", "learned"]
    graded: bool
    pairs: Sequence[Pair]
    """Those that are shown, the largest change first."""
    total: int

    @property
    def word(self) -> str:
        """What happened to them."""
        if self.graded:
            return "fell" if self.kind == "forgotten" else "rose"
        return self.kind


@dataclass(frozen=True)
class Shown:
    """What is shown of single documents."""

    changed: Sequence[Changed] = ()
    wordings: Mapping[Key, Wording] = field(default_factory=dict)
    not_there: Mapping[str, str] = field(default_factory=dict)
    """By leaf task, why there are no words (for some documents)."""

    @property
    def wanted(self) -> dict[str, list[int]]:
        """Ids of the documents that are shown, by leaf task."""
        found: dict[str, list[int]] = {}
        for changed in self.changed:
            for pair in changed.pairs:
                leaf, document = pair.key
                if document not in found.setdefault(leaf, []):
                    found[leaf].append(document)
        return found


def changed_documents(
    diffs: Sequence[TaskDiff], which: Which = "both", most: int | None = None
) -> Iterator[Changed]:
    """By task and direction, at most so many documents each; None: all."""
    for diff in diffs:
        for kind, pairs in (("forgotten", diff.forgotten), ("learned", diff.learned)):
            if pairs and which in (kind, "both"):
                largest = sorted(pairs, key=lambda pair: -abs(pair.change))[:most]
                yield Changed(
                    diff.task,
                    "forgotten" if kind == "forgotten" else "learned",
                    diff.graded,
                    largest,
                    len(pairs),
                )
