"""Guesses are what followed the last tokens before, going round when the text loops."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cl_bench.evaluation.shared_prefix.prompt_lookup import GRAM, STREAK, Lookup

TEXTS = st.lists(st.integers(0, 2), min_size=1, max_size=30)


def what_followed(tokens):
    """The tokens after the latest earlier place of the last `GRAM`, by search; None if none."""
    gram = tokens[-GRAM:]
    for end in range(len(tokens) - 1, 0, -1):
        if tokens[max(0, end - GRAM) : end] == gram:
            return tokens[end:]
    return None


@given(TEXTS, st.integers(0, 12))
def test_the_latest_earlier_place_is_continued(tokens, n):
    guess = Lookup(tokens).guess(n)
    followed = what_followed(tokens)
    expected = [tokens[-1]] * n if followed is None else (followed * (n + 1))[:n]
    assert guess == expected


@given(TEXTS, TEXTS)
def test_the_streak_counts_right_lookups_of_the_answer(prompt, answer):
    text = Lookup(prompt)
    streak = 0
    for i, token in enumerate(answer):
        followed = what_followed([*prompt, *answer[:i]])
        streak = streak + 1 if followed is not None and followed[0] == token else 0
        text.append(token)
        assert text.streak == streak


def test_a_loop_is_trusted_and_a_surprise_ends_the_trust():
    text = Lookup([7, 8, 9])
    for token in [1, 2, 3, 4] * 4:
        text.append(token)
    assert text.streak >= STREAK
    assert text.guess(6) == [1, 2, 3, 4, 1, 2]
    text.append(5)
    assert text.streak == 0
