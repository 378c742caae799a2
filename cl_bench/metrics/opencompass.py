"""How OpenCompass read an answer out of generated text in October 2023 (commit d7ff933).

Configs `bbh_gen_5b92b0`, `tydiqa_gen_978d2a` and `gsm8k_gen_1d7fe4`, whose numbers TRACE (arXiv
2310.06762) and FGGM (arXiv 2601.18261) report. The rules are kept with their oddities, which the
docstrings name. All scores are 0 or 1 for one document, F1 anything from 0 to 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]
Metrics = dict[str, float]


def bbh_choice(doc: Document, results: Sequence[str]) -> Metrics:
    """Accuracy of a multiple-choice sub-task; the target (`(A)`) is read by the same rule."""
    return {"acc": float(choice_letter(results[0]) == choice_letter(doc["target"]))}


def bbh_free(doc: Document, results: Sequence[str]) -> Metrics:
    """Exact match of a free-form sub-task with the target as it is."""
    return {"acc": float(free_answer(results[0]) == doc["target"])}


def gsm8k(doc: Document, results: Sequence[str]) -> Metrics:
    """Exact match with the number after `#### `, its commas removed.

    The prediction has digits alone, so that a negative or decimal target is never matched.
    """
    target = doc["answer"].split("#### ")[1].replace(",", "")
    return {"acc": float(last_digits(results[0]) == target)}


def tydiqa(doc: Document, results: Sequence[str]) -> Metrics:
    """Exact match and F1 over words, each against the best of the accepted answers.

    The first line of the text is lower-cased; the answers are not, so that one with a capital
    letter (a name) is matched only where scripts have no case.
    """
    prediction = results[0].split("\n")[0].lower()
    answers = doc["answers"]
    return {
        "exact_match": max(
            float(bare_words(prediction) == bare_words(answer)) for answer in answers
        ),
        "f1": max(word_f1(prediction, answer) for answer in answers),
    }


def choice_letter(text: str) -> str:
    """The letter in the first `(X`, else the first capital letter, else the text itself.

    Looked for after the first `answer is ` (up to a second one) if there is one.
    """
    answer = _after_marker(text)
    found = re.search(r"\(([A-Z])", answer) or re.search(r"([A-Z])", answer)
    return found.group(1) if found else answer


def free_answer(text: str) -> str:
    """First line after the first `answer is ` (up to a second one), without one final full stop.

    Without the marker it is the first line of the text.
    """
    return _after_marker(text).split("\n")[0].removesuffix(".")


def _after_marker(text: str) -> str:
    parts = text.split("answer is ")
    return parts[1].strip() if len(parts) > 1 else text


def last_digits(text: str) -> str:
    """Digits of the last word with a digit, before the first blank line: "3.5" gives "35".

    Words are parted by spaces alone, so a line break joins two. Empty without a digit.
    """
    for word in reversed(text.split("\n\n")[0].split(" ")):
        digits = "".join(char for char in word if char.isdigit())
        if digits:
            return digits
    return ""


def bare_words(text: str) -> str:
    """Up to the first line break, full stop or comma; without punctuation and English articles."""
    cut = re.split(r"[\n.,]", text, maxsplit=1)[0]
    words = re.sub(r"\b(a|an|the)\b", "", re.sub(r"[^\w\s]", "", cut), flags=re.IGNORECASE)
    return " ".join(words.split())


def word_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall over the words of both texts after `plain`.

    0 when they share no word, also when both are empty.
    """
    ours, theirs = bare_words(prediction).split(), bare_words(answer).split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0
