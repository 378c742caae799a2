"""OpenCompass's rules of 2023: values are what its own functions gave (commit d7ff933)."""

from __future__ import annotations

import pytest

from cl_bench.metrics import opencompass

GENERATED = [
    # text, letter of a choice, free answer, digits
    ("The answer is (B).", "B", "(B)", ""),
    ("So the answer is B.", "B", "B", ""),
    ("the answer is [ ] >.\nmore", "[ ] >.\nmore", "[ ] >", ""),
    ("answer is (C) because answer is (D)", "C", "(C) because", ""),
    ("I think (d) or X", "I", "I think (d) or X", ""),
    ("no letters here", "no letters here", "no letters here", ""),
    ("", "", "", ""),
    ("answer is \n\nyes. ", "yes.", "yes", ""),
    ("3.5", "3.5", "3.5", "35"),
    ("costs $1,234 dollars", "costs $1,234 dollars", "costs $1,234 dollars", "1234"),
    ("It is 18.\n\nQuestion: 5", "I", "It is 18", "18"),
    ("the total is 4\n5 apples", "the total is 4\n5 apples", "the total is 4", "45"),
    ("7 none", "7 none", "7 none", "7"),
    ("-12", "-12", "-12", "12"),
]
EXTRACTED = [
    # text, accepted answers, exact match, F1
    ("The Eiffel Tower, in Paris", ["Eiffel Tower"], 0, 0),
    ("eiffel tower", ["eiffel tower"], 1, 1),
    ("1998\nmore", ["1998"], 1, 1),
    ("  a cat. and dog", ["the cat"], 1, 1),
    ("", ["x"], 0, 0),
    ("in 1,200 days", ["1,200"], 0, 2 / 3),
    ("박물관", ["박물관"], 1, 1),
    ("state-of-the-art", ["state of art"], 0, 0),
    ("blue whale", ["whale", "the blue whale"], 1, 1),
]


@pytest.mark.parametrize(("text", "letter", "free", "digits"), GENERATED)
def test_answers_are_read_as_opencompass_read_them(text, letter, free, digits):
    assert opencompass.choice_letter(text) == letter
    assert opencompass.free_answer(text) == free
    assert opencompass.last_digits(text) == digits


@pytest.mark.parametrize(("text", "answers", "exact", "f1"), EXTRACTED)
def test_tydiqa_takes_the_best_answer(text, answers, exact, f1):
    found = opencompass.tydiqa({"answers": answers}, [text])
    assert found == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_targets_are_read_as_opencompass_read_them():
    assert opencompass.bbh_choice({"target": "(B)"}, ["so the answer is (B)."]) == {"acc": 1.0}
    assert opencompass.bbh_choice({"target": "(B)"}, ["so the answer is (A)."]) == {"acc": 0.0}
    assert opencompass.bbh_free({"target": "yes"}, ["So the answer is yes."]) == {"acc": 1.0}
    assert opencompass.bbh_free({"target": "yes"}, ["So the answer is Yes."]) == {"acc": 0.0}
    problem = {"answer": "Half of it.\n#### 1,234"}
    assert opencompass.gsm8k(problem, ["The answer is 1234"]) == {"acc": 1.0}
    assert opencompass.gsm8k(problem, ["The answer is 123.4"]) == {"acc": 1.0}
    assert opencompass.gsm8k({"answer": "#### -5"}, ["The answer is -5"]) == {"acc": 0.0}
