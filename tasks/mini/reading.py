"""Questions about a passage, sequences to go on with, and sums in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from cl_bench.data.generated import test_split

if TYPE_CHECKING:
    from datasets import Dataset

_PEOPLE = ("Maria", "Peter", "Lucy", "Oscar", "Nora", "Felix")
_CITIES = ("Paris", "Oslo", "Lima", "Cairo")
_JOBS = ("baker", "nurse", "pilot", "farmer")


def _boolq() -> Iterator[dict[str, Any]]:
    for place, (person, city, job) in enumerate(product(_PEOPLE, _CITIES, _JOBS)):
        passage = f"{person} works as a {job} and lives in {city}."
        label = place % 2
        asked = job if label else _JOBS[(_JOBS.index(job) + 1) % len(_JOBS)]
        yield {"passage": passage, "question": f"is {person} a {asked}", "label": label}


def boolq(**_: Any) -> dict[str, Dataset]:
    """A sentence and a question about it; label 0 no, 1 yes."""
    return test_split("mini_boolq", _boolq())


_ASKED = {
    "english": (
        "{person} works as a {job} and lives in {city}.",
        (("In which city does {person} live?", "city"), ("What is the job of {person}?", "job")),
    ),
    "indonesian": (
        "{person} tinggal di {city} dan bekerja sebagai guru.",
        (("Di kota mana {person} tinggal?", "city"),),
    ),
}


def _tydiqa() -> Iterator[dict[str, Any]]:
    for language, (context, questions) in _ASKED.items():
        for person, city, job in product(_PEOPLE, _CITIES, _JOBS):
            slots = {"person": person, "city": city, "job": job}
            for question, slot in questions:
                yield {
                    "language": language,
                    "context": context.format(**slots),
                    "question": question.format(**slots),
                    "answer": slots[slot],
                }


def tydiqa(**_: Any) -> dict[str, Dataset]:
    """A sentence in English or Indonesian and a question whose answer is a word of it."""
    rows = {row["context"] + row["question"]: row for row in _tydiqa()}
    return test_split("mini_tydiqa", rows.values())


def f1(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Word overlap of prediction and answer (SQuAD's F1) without case and punctuation."""
    found, gold = _words(results[0]), _words(doc["answer"])
    common = sum((Counter(found) & Counter(gold)).values())
    score = 2 * common / (len(found) + len(gold)) if common else 0.0
    return {"f1": score, "exact_match": float(found == gold)}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


_CYCLES = (
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "January February March April May June July August September October November December",
    "one two three four five six seven eight nine ten eleven twelve",
    "first second third fourth fifth sixth seventh eighth ninth tenth",
    "A B C D E F G H I J K L M N O P",
)


def _bbh() -> Iterator[dict[str, Any]]:
    for cycle in map(str.split, _CYCLES):
        for start in range(len(cycle) - 3):
            yield {"input": ", ".join(cycle[start : start + 3]), "target": cycle[start + 3]}


def bbh(**_: Any) -> dict[str, Dataset]:
    """Three members of a well-known sequence; the target is the next one."""
    return test_split("mini_bbh", _bbh())


_THINGS = ("apples", "books", "coins", "shells")


def _gsm8k() -> Iterator[dict[str, Any]]:
    for person, thing, one, two in product(_PEOPLE, _THINGS, range(2, 10), range(2, 10)):
        question = f"{person} has {one} {thing} and gets {two} more. How many {thing} now?"
        yield {"question": question, "answer": str(one + two)}


def gsm8k(**_: Any) -> dict[str, Dataset]:
    """One-step sums of small numbers in words."""
    return test_split("mini_gsm8k", _gsm8k())
