"""BLEU as TRACE computes it: nltk's sentence BLEU, averaged over the documents.

Source: TRACE's metrics (`nltk.translate.bleu_score.sentence_bleu`, nltk 3.5, one reference, equal
weights, no smoothing) on its own tokens. BLEU itself: Papineni et al., ACL 2002.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Sequence

_SEPARATOR = re.compile(r"[\s.]")


def tokenize(text: str) -> list[str]:
    """TRACE's tokens: split at every white-space character and every period, empty ones dropped."""
    return [token for token in _SEPARATOR.split(text) if token]


def bleu(prediction: str, reference: str, max_order: int) -> float:
    """Sentence BLEU with n-grams up to `max_order` (1 and 4 in TRACE) of one pair.

    Scale 0-1. Equal texts of at least `max_order` tokens give 1. Empty prediction or reference, or
    no common word: 0. An order without a match counts as the smallest positive float, as nltk
    does, so BLEU-4 of texts without a common 4-gram is about 1e-77, not 0. TRACE reports the mean
    over documents, not corpus BLEU; sacrebleu tokenises by 13a, smooths, and uses 0-100.
    """
    hypothesis = tokenize(prediction)
    target = tokenize(reference)
    if not hypothesis:
        return 0.0
    log_precisions = []
    for order in range(1, max_order + 1):
        matched, total = _clipped_matches(hypothesis, target, order)
        if order == 1 and not matched:
            return 0.0
        precision = matched / total if matched else sys.float_info.min
        log_precisions.append(math.log(precision) / max_order)
    return _brevity_penalty(len(hypothesis), len(target)) * math.exp(math.fsum(log_precisions))


def _clipped_matches(
    hypothesis: Sequence[str], target: Sequence[str], order: int
) -> tuple[int, int]:
    ours = _ngrams(hypothesis, order)
    theirs = _ngrams(target, order)
    matched = sum(min(count, theirs[ngram]) for ngram, count in ours.items() if ngram in theirs)
    return matched, max(1, len(hypothesis) - order + 1)


def _ngrams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def _brevity_penalty(length: int, target_length: int) -> float:
    return 1.0 if length > target_length else math.exp(1 - target_length / length)
