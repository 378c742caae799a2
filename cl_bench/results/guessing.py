"""How many documents change between right and wrong where both models only guess.

A model knows an answer or takes each of the k choices alike (2510.17776 counts so). Of documents
that both guess, (k - 1)^2 of k^2 are wrong twice and k - 1 are right in A alone; as many in B
alone. A document that is wrong twice is known to neither: so each stands for 1 / (k - 1) documents
that were forgotten, and as many that were learned, by chance. The paper takes the product of the
two error rates instead, as if the same documents were not hard for both. Both hold for guesses
that are independent: a model that keeps the habits of the one it was trained from flips fewer, so
the number is an upper bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_TWICE = "acc_mutual_info"
"""With this metric lm-eval scores each choice a second time, without the question."""


def choices_of(entry: Mapping[str, Any], *records: Mapping[str, Any]) -> int | None:
    """Between how many answers a document's models chose; None where any text can be one.

    `entry` is its leaf task's in `scores.json`, `records` its lines of `predictions/`. Generated
    answers have the task's closed set of labels; one that is none of them is no guess: then 1.
    """
    if all("choice" in record for record in records):
        number = len(records[0]["loglikelihoods"])
        twice = any(name.split(",")[0] == _TWICE for name in entry.get("metrics") or {})
        return number // 2 if twice else number
    labels = [label for label in entry.get("labels") or {} if label != "other"]
    if len(labels) < 2 or any("prediction" not in record for record in records):
        return None
    return len(labels) if all(_is_one(record["prediction"], labels) for record in records) else 1


def _is_one(answer: str, labels: Sequence[str]) -> bool:
    """Letters may have their reasons behind them, as ScienceQA's answers do."""
    letters = all(len(label) == 1 for label in labels)
    return answer in labels or (letters and answer[:1] in labels and not answer[1].isalnum())


def expected_flips(choices: Iterable[int]) -> float:
    """Of documents that are wrong on both sides, with so many choices each: flips each way."""
    return float(sum(1 / (number - 1) for number in choices if number > 1))
