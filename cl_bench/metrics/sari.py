"""SARI as TRACE computes it for 20Minuten: the Hugging Face script's definition.

Source: Xu et al., TACL 2016; the `sari` script of `datasets` (v2.14 era) and of `evaluate`, which
give the same numbers: lower-cased, sacrebleu's 13a tokens, 1- to 4-grams, keep and add as F1,
delete as precision only, 0/0 = 1, and recall of `keep` over summed counts.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_ORDERS = (1, 2, 3, 4)
_Ngram = tuple[str, ...]


def sari(source: str, prediction: str, reference: str) -> float:
    """SARI of one prediction against one reference, given the text that was simplified.

    Scale 0-100. TRACE passes the full prompt (instruction, paragraph, cue) as source, so do the
    same to compare with it. Empty and blank texts are not skipped: deleting is partly right, so
    empty predictions score 37 on 20Minuten's test set. A prediction equal to the reference gives
    100, less where an n-gram of all three texts occurs more often in the source. The code of Xu et
    al. gives other numbers (0/0 = 0, recall of `keep` per n-gram, its own tokens).
    """
    tokens = [_tokens(text) for text in (source, prediction, reference)]
    total = 0.0
    for order in _ORDERS:
        total += sum(_operations(*(_ngrams(words, order) for words in tokens)))
    return 100.0 * total / (3 * len(_ORDERS))


def _tokens(text: str) -> list[str]:
    return _tokenizer()(text.lower()).split(" ")


@cache
def _tokenizer() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenizer: Callable[[str], str] = Tokenizer13a()
    return tokenizer


def _ngrams(tokens: list[str], order: int) -> Counter[_Ngram]:
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def _operations(
    source: Counter[_Ngram], prediction: Counter[_Ngram], reference: Counter[_Ngram]
) -> tuple[float, float, float]:
    """(keep F1, delete precision, add F1) of one order, each 0-1."""
    return (
        _keep(source, prediction, reference),
        _delete(source, prediction, reference),
        _add(source, prediction, reference),
    )


def _keep(
    source: Counter[_Ngram], prediction: Counter[_Ngram], reference: Counter[_Ngram]
) -> float:
    kept = source & prediction
    wanted = source & reference
    good = kept & reference
    precision = sum(count / kept[ngram] for ngram, count in good.items())
    return _f1(_ratio(precision, len(kept)), _ratio(good.total(), wanted.total()))


def _delete(
    source: Counter[_Ngram], prediction: Counter[_Ngram], reference: Counter[_Ngram]
) -> float:
    deleted = source - prediction
    good = deleted - reference
    return _ratio(sum(count / deleted[ngram] for ngram, count in good.items()), len(deleted))


def _add(source: Counter[_Ngram], prediction: Counter[_Ngram], reference: Counter[_Ngram]) -> float:
    added = prediction.keys() - source.keys()
    wanted = reference.keys() - source.keys()
    good = len(added & reference.keys())
    return _f1(_ratio(good, len(added)), _ratio(good, len(wanted)))


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
