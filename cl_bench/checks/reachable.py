"""Whether a model that has learned a task to the letter would get its full score.

A gold answer goes the way of a generation: encoded as in training, decoded, stopped, cut, filtered,
scored. What it then lacks of the score of the answer itself no training can bring back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cl_bench.checks.perfect_generation import Generator, only_takes_first, through_filters
from cl_bench.data.examples import answer_text, delimiter, gold_text
from cl_bench.data.special_tokens import SpecialTokens, named
from cl_bench.evaluation.aggregates import aggregation_name, aggregation_of
from cl_bench.evaluation.headline import headline_of

MOST_SCORED = 100
"""Documents whose metrics are computed at most; the order is a seeded one."""
CHUNK = 25
FIRST = 10
"""Documents whose metrics are computed even though their texts come back as they are."""
OF_ONE_TEXT = ("bleu", "chrf", "chrf++", "ter")
"""lm-eval's aggregations of all documents that mean something for one of them."""
LEAST = 1e-6
"""A score that is lower by less is the same."""


@dataclass(frozen=True)
class Gold:
    """A document with its gold answer."""

    doc_id: int
    doc: Any
    target: str
    """The answer itself."""
    trained: str
    """What is trained: the delimiter, and the answer."""
    delimiter: str


@dataclass(frozen=True)
class Loss:
    """A gold answer that does not get the score that it has as a text."""

    doc_id: int
    cause: str
    """What takes it: `delimiter`, `token`, `tokenizer`, `until`, `limit`, `filter`, `metric`."""
    detail: str
    """The delimiter, the tokens, the stop string, the filter."""
    answer: str
    given: str
    """What the metric is given in its place."""
    score: float
    full: float


@dataclass
class Reach:
    """What perfect answers of some documents score."""

    metric: str
    checked: int = 0
    score: float = 0.0
    """Sum over the documents, and of what the answers themselves get."""
    full: float = 0.0
    losses: list[Loss] = field(default_factory=list)
    lower_is_better: bool = False

    @property
    def share(self) -> float:
        """The part of the full score that can be reached, 0-1; 0 where no answer gets any."""
        if self.lower_is_better:
            return 1.0
        return self.score / self.full if self.full > 0 else 0.0

    @property
    def share_if_long_enough(self) -> float:
        """The same if no answer were cut, but for those of which nothing is left."""
        cut = sum(
            loss.full - loss.score
            for loss in self.losses
            if loss.cause == "limit" and loss.score > 0
        )
        return self.share + (cut / self.full if self.full > 0 else 0.0)

    @property
    def causes(self) -> list[str]:
        """The causes, the most frequent first."""
        return [cause for cause, _ in Counter(loss.cause for loss in self.losses).most_common()]


def gold_of(task: Any, doc: Any, doc_id: int) -> Gold | None:
    """A document's gold answer; None where it has none."""
    try:
        target = gold_text(task, doc)
    except ValueError:
        return None
    before = delimiter(task, task.doc_to_prefix(doc), target)
    return Gold(doc_id, doc, target, answer_text(task, doc, target), before)


def reach(
    task: Any, golds: Sequence[Gold], generator: Generator, judge: Judge | None = None
) -> Reach:
    """The scores of perfect answers; of texts that come back unchanged only a few are computed.

    Looks at the documents in order until the metrics of `MOST_SCORED` are computed. Raises what the
    task's own metric raises.
    """
    judge = judge or Judge(task)
    found = Reach(judge.metric)
    known: list[float] = []
    for start in range(0, len(golds), CHUNK):
        part = golds[start : start + CHUNK]
        ids = generator.ids([gold.trained for gold in part])
        texts = [generator.text(each) for each in ids]
        chosen = [
            i
            for i, gold in enumerate(part)
            if start + i < FIRST or texts[i] != gold.target or not judge.plain
        ]
        found.checked += len(part)
        asked = [part[i] for i in chosen]
        full = judge.full(asked)
        given = judge.scores(asked, [texts[i] for i in chosen])
        known += full
        unchanged = (len(part) - len(chosen)) * sum(known) / len(known)
        found.full += sum(full) + unchanged
        found.score += sum(given) + unchanged
        for i, whole, score in zip(chosen, full, given, strict=True):
            if score < whole - LEAST:
                loss = _explain(judge, generator, part[i], ids[i], texts[i], score, whole)
                found.losses.append(loss)
        if len(known) >= MOST_SCORED:
            break
    found.metric, found.lower_is_better = judge.metric, judge.lower_is_better
    return found


class Judge:
    """A task's headline metric of texts."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.plain = only_takes_first(task)
        self.metric, self.filter = "", ""

    def full(self, golds: Sequence[Gold]) -> list[float]:
        """The score of each answer itself: as the metric reads it, or through the filters."""
        filtered = self.scores(golds, [gold.target for gold in golds])
        if self.plain:
            return filtered
        pairs = zip(filtered, golds, strict=True)
        return [max(score, self._unfiltered(gold, gold.target)) for score, gold in pairs]

    def scores(self, golds: Sequence[Gold], texts: Sequence[str]) -> list[float]:
        """The headline metric of a text for each document, through the task's filters."""
        answers = through_filters(self.task, [gold.doc for gold in golds], texts)
        return [
            self._headline(gold.doc, answer) for gold, answer in zip(golds, answers, strict=True)
        ]

    def seen(self, gold: Gold, text: str) -> str:
        """What the metric is given of a text."""
        (answer,) = through_filters(self.task, [gold.doc], [text])
        return str(answer[self.filter])

    def _unfiltered(self, gold: Gold, text: str) -> float:
        try:
            return self._headline(gold.doc, {self.filter: text})
        except Exception:  # a metric may take nothing but what its filter gives
            return -math.inf

    def _headline(self, doc: Any, answers: dict[str, Any]) -> float:
        names = list(answers)
        if not self.filter:
            wanted = (self.task.config.metadata or {}).get("filter", names[0])
            self.filter = wanted if wanted in names else names[0]
        result = self.task.process_results(doc, [answers[self.filter]])
        if not self.metric:
            self.metric = headline_of(self.task, list(result)).metric
        return self._number(result[self.metric])

    def _number(self, value: Any) -> float:
        """A document's score; of a corpus metric what it is over this document alone."""
        if hasattr(value, "item"):
            value = value.item()
        if isinstance(value, tuple | list) and len(value) == 2:
            function = aggregation_of(self.task, self.metric)
            if aggregation_name(function) in OF_ONE_TEXT:
                value = float(function([value]))
            else:  # one that needs several documents
                value = float(str(value[0]) == str(value[1]))
        return -float(value or 0) if self.lower_is_better else float(value or 0)

    @property
    def lower_is_better(self) -> bool:
        """Whether the headline metric counts errors."""
        return self.task.higher_is_better().get(self.metric) is False


class AnyForm(Judge):
    """The same of a task that is not trained: a filter may ask for more than the gold text says.

    The filter of a chain of thought looks for the sentence that the shots end in, for one. What it
    does not find counts as it stands.
    """

    def scores(self, golds: Sequence[Gold], texts: Sequence[str]) -> list[float]:
        found = super().scores(golds, texts)
        if self.plain:
            return found
        every = zip(found, golds, texts, strict=True)
        return [max(score, self._unfiltered(gold, text)) for score, gold, text in every]


def _explain(
    judge: Judge,
    generator: Generator,
    gold: Gold,
    ids: Sequence[int],
    text: str,
    score: float,
    full: float,
) -> Loss:
    """The first step on the way of an answer after which it has less than its full score."""
    specials = SpecialTokens(generator.tokenizer).of(gold.trained)
    ends = [string for string in generator.stop_strings if string and string in gold.trained]
    room = generator.rule.max_new_tokens
    steps: list[tuple[str, str, Callable[[], str]]] = [
        ("filter", judge.filter, lambda: gold.target),
        ("delimiter", gold.delimiter, lambda: gold.trained),
        (
            "token" if specials else "tokenizer",
            named(list(dict.fromkeys(specials))),
            lambda: generator.unstopped(ids),
        ),
        ("until", ", ".join(map(repr, ends)), lambda: generator.unlimited(ids)),
        ("limit", f"{len(ids)} tokens, limit {room}", lambda: text),
    ]
    known = {text: score} | ({gold.target: full} if judge.plain else {})

    def loses(given: str) -> bool:
        if given not in known:
            (known[given],) = judge.scores([gold], [given])
        return known[given] < full - LEAST

    lost = ((cause, detail) for cause, detail, make in steps if loses(make()))
    cause, detail = next(lost, steps[-1][:2])
    return Loss(gold.doc_id, cause, detail, gold.target, judge.seen(gold, text), score, full)
