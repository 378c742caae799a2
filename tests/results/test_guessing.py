"""Flips by chance against models that guess."""

from __future__ import annotations

import random

from cl_bench.results.guessing import choices_of, expected_flips


def test_two_models_that_know_some_and_guess_the_rest() -> None:
    """What is known to one only is no chance; the flips of guessing are found again."""
    rng = random.Random(3)
    wrong_twice: list[int] = []
    flips = [0, 0]
    for document in range(40_000):
        k = 2 + document % 4
        knows = [rng.random() < 0.4, rng.random() < 0.5]
        right = [know or rng.randrange(k) == 0 for know in knows]
        if not any(knows):
            flips[0] += right == [True, False]
            flips[1] += right == [False, True]
        if not any(right):
            wrong_twice.append(k)
    expected = expected_flips(wrong_twice)
    assert all(abs(count / expected - 1) < 0.07 for count in flips), (flips, expected)


def test_how_many_choices_a_document_has() -> None:
    scored = {"choice": 1, "loglikelihoods": [-1.0, -2.0, None, -4.0]}
    assert choices_of({}, scored, scored) == 4
    assert choices_of({"metrics": {"acc_mutual_info,none": 0.5}}, scored, scored) == 2
    labels = {"labels": {"A": 0.5, "B": 0.25, "C": 0.0, "other": 0.25}}
    assert choices_of(labels, {"prediction": "A"}, {"prediction": "C. As it is"}) == 3
    for other in ("Apple", "", "D", " A"):  # no guess
        assert choices_of(labels, {"prediction": "A"}, {"prediction": other}) == 1
    assert choices_of({}, {"prediction": "7"}, {"prediction": "8"}) is None
    assert choices_of(labels, {"loglikelihoods": [-1.0]}, {"loglikelihoods": [-1.0]}) is None
    assert expected_flips([1, 1]) == 0 and expected_flips([2, 5]) == 1.25
