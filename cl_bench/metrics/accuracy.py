"""Accuracy, strict as TRACE computes it, and what a classification score must be read against.

Source: TRACE (arXiv 2310.06762), the accuracy of its evaluation scripts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

# The share of predictions that are none of a task's labels is listed under this key.
OTHER = "other"


def exact_match(prediction: str, reference: str) -> float:
    """1.0 when the two strings are equal and not empty, else 0.0.

    Scale 0-1. TRACE's accuracy for C-STANCE, FOMC and both NumGLUE tasks. Nothing is stripped,
    lower-cased or extracted: `A `, `A.` and `36.0` are wrong where `A` and `36` are expected.
    Empty prediction or reference: 0. The usual `exact_match` of `evaluate` gives 1 for two empty
    strings and can ignore case, punctuation and numbers; this one cannot.
    """
    return float(prediction == reference != "")


def first_character_match(prediction: str, reference: str) -> float:
    """1.0 when both texts begin with the same character, else 0.0.

    Scale 0-1. TRACE's accuracy for ScienceQA. Any text that begins with the right letter is
    credited: `A magnet attracts iron` and `Answer: A` both count as A. TRACE's own code fails with
    an IndexError on an empty text; here that is 0 (the caller counts it as unscorable).
    """
    return float(prediction[:1] == reference[:1] != "")


def majority_baseline(references: Sequence[str]) -> float | None:
    """Accuracy (0-1) of always answering the most frequent reference; None without references."""
    if not references:
        return None
    return max(Counter(references).values()) / len(references)


def label_shares(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Share (0-1) of the predictions equal to each label, strictly; the rest under `other`.

    Empty without predictions. A model that answers one label whatever the question shows here, and
    one that has lost the answer format shows as a large `other`.
    """
    if not predictions:
        return {}
    counts = Counter(predictions)
    shares = {label: counts[label] / len(predictions) for label in labels}
    rest = len(predictions) - sum(counts[label] for label in set(labels))
    return {**shares, OTHER: rest / len(predictions)}
