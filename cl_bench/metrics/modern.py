"""The column beside TRACE's numbers: what people would compute today. Never in place of them.

`lenient` accuracies forgive the form of an answer, `rouge_score_l` is ROUGE-L as the `rouge-score`
package defines it, `sacrebleu_*` is sacrebleu with its defaults. All are reported under these
names only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

# A letter on its own: no Latin letter or digit beside it. Chinese characters may touch it.
_LETTER = re.compile(r"(?<![0-9A-Za-zÀ-ɏ])([A-D])(?![0-9A-Za-zÀ-ɏ])")
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_MINUS_SIGNS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-"})


def letter(text: str) -> str | None:
    """The first capital A-D that stands alone (`(A)`, `答案：C`, `Answer: B`), or None."""
    match = _LETTER.search(text)
    return match.group(1) if match else None


def lenient_letter(prediction: str, reference: str) -> float:
    """1.0 when the first stand-alone letters A-D agree, else whether the stripped texts do.

    Scale 0-1, empty prediction or reference 0. Our definition (TRACE's forks take the first
    character or a prefix instead). An article `A` at the start still counts as the letter.
    """
    expected = letter(reference)
    if expected is None:
        return _same_text(prediction, reference)
    return float(letter(prediction) == expected)


def lenient_number(prediction: str, reference: str) -> float:
    """1.0 when the stripped texts are equal, or both are numbers of equal value.

    Scale 0-1, empty prediction or reference 0. `1,250` equals `1250`, `36.0` equals `36`, `.5`
    equals `0.5`; a number inside a sentence or with a unit is not looked for.
    """
    ours, theirs = number(prediction), number(reference)
    if ours is not None and theirs is not None:
        return float(ours == theirs)
    return _same_text(prediction, reference)


def number(text: str) -> Decimal | None:
    """The value of a text that is one number (thousands commas allowed), else None."""
    bare = text.strip().translate(_MINUS_SIGNS)
    if not _NUMBER.fullmatch(bare) or not re.search(r"^[+-]?\.?\d", bare, re.ASCII):
        return None
    return Decimal(bare.replace(",", ""))


def _same_text(prediction: str, reference: str) -> float:
    return float(prediction.strip() == reference.strip() != "")


def rouge_score_l(prediction: str, reference: str) -> float:
    """F of `rouge-score`'s rougeL without stemming, on its tokens (lower case, only a-z and 0-9).

    Scale 0-1; 0 when either side has no such token, so Chinese scores 0 and German words break at
    umlauts. The package's own table in pure Python takes quadratic memory; the length of the
    longest common subsequence is the same number from rapidfuzz.
    """
    from rapidfuzz.distance import LCSseq
    from rouge_score.tokenize import tokenize

    ours, theirs = tokenize(prediction, None), tokenize(reference, None)
    if not ours or not theirs:
        return 0.0
    common = LCSseq.similarity(ours, theirs)
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall) if common else 0.0


def sacrebleu_sentence(prediction: str, reference: str) -> float:
    """sacrebleu's sentence BLEU with its defaults (13a, exponential smoothing, effective order).

    Scale 0-100, empty prediction or reference 0.
    """
    return float(_bleu(True).sentence_score(prediction, [reference]).score)


def sacrebleu_corpus(predictions: Sequence[str], references: Sequence[str]) -> float:
    """sacrebleu's corpus BLEU with its defaults. Scale 0-100; 0 without documents.

    n-gram counts are summed over the documents first: not the mean of sentence scores.
    """
    if not predictions:
        return 0.0
    return float(_bleu(False).corpus_score(list(predictions), [list(references)]).score)


@cache
def _bleu(effective_order: bool) -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    # `force` only silences the warning about texts that look tokenised (Py150, transcripts).
    return BLEU(effective_order=effective_order, force=True)


def rouge_l_any_script(prediction: str, reference: str) -> float:
    """ROUGE-L's F (Lin 2004, one sequence, no stemming) over words of any script, lower case.

    Scale 0-1. Words are runs of letters and digits; in scripts that are written without spaces
    (Chinese, Japanese, Thai, ...) every character is one. On ASCII texts it equals
    `rouge_score_l`, on others that one sees only a-z and 0-9. Texts without any word: 1 when they
    are equal and not empty, else 0.
    """
    from rapidfuzz.distance import LCSseq

    ours, theirs = words(prediction), words(reference)
    if not ours and not theirs:
        return _same_text(prediction, reference)
    common = LCSseq.similarity(ours, theirs)
    return 2 * common / (len(ours) + len(theirs))


_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case; characters of unspaced scripts one by one."""
    return _WORD.findall(text.lower())
