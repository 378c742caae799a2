"""How answers of a stage from files are scored, and which score their form asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

from cl_bench.data.own_files.conversation import answer_of
from cl_bench.metrics.modern import (
    lenient_number,
    rouge_l_any_script,
    sacrebleu_sentence,
    words,
)

SHORT_WORDS = 8
"""Words of an answer that is short: right or wrong, not more or less alike."""
SHORT_SHARE = 0.9
"""Part of the answers that must be short, of one line each, for exact match to be the score."""
MOST_LABELS = 20
ROWS_A_LABEL = 5
"""A closed set of labels: so many answers at most, each so many times on average."""


def exact_match(prediction: str, reference: str) -> float:
    """1 when both texts are equal; blanks around them do not count, capitals do."""
    return float(prediction.strip() == reference.strip())


def contains(prediction: str, reference: str) -> float:
    """1 when the answer stands in what the model wrote, in capitals or not."""
    return float(reference.strip().casefold() in prediction.casefold())


METRICS: Mapping[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "contains": contains,
    "number": lenient_number,
    "rouge_l": rouge_l_any_script,
    "bleu": lambda prediction, reference: sacrebleu_sentence(prediction, reference) / 100,
}
"""0 to 1 for (prediction, reference)."""


def short(answer: str) -> bool:
    """Whether an answer is one line of a few words."""
    return "\n" not in answer.strip() and len(words(answer)) <= SHORT_WORDS


def metrics_for(answers: Sequence[str]) -> tuple[str, ...]:
    """Exact match and ROUGE-L, the one that fits the answers first: it is the score."""
    few = ceil(SHORT_SHARE * len(answers))
    if sum(map(short, answers)) >= few:
        return ("exact_match", "rouge_l")
    return ("rouge_l", "exact_match")


def labels_in(answers: Sequence[str]) -> list[str]:
    """The closed set that short answers come from; empty where they are no labels."""
    counts = Counter(answer.strip() for answer in answers)
    few = 1 < len(counts) <= min(MOST_LABELS, len(answers) // ROWS_A_LABEL)
    return sorted(counts) if few and all(map(short, counts)) else []


def scored_answer(
    document: Mapping[str, Any], results: Sequence[str], names: Sequence[str]
) -> dict[str, float]:
    """lm-evaluation-harness's `process_results`: every metric of one answer."""
    gold = answer_of(document)
    return {name: METRICS[name](results[0], gold) for name in names}
