"""What is held out is never trained on, and nothing is lost between the two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.data.own_files.conversation import Conversation, Turn
from cl_bench.data.own_files.holdout import again, split_off
from cl_bench.errors import UserError


def row(prompt: str, answer: str = "x", system: str = "") -> Conversation:
    turns = [Turn("system", system)] if system else []
    return Conversation((*turns, Turn("user", prompt), Turn("assistant", answer)))


rows_of = st.lists(
    st.builds(row, st.sampled_from(["a", "b", " b", "c c", "c  c", "d", "e"]), st.text(max_size=2)),
    min_size=1,
    max_size=30,
)
holdouts = st.one_of(st.integers(1, 31), st.floats(0.001, 0.999))


@given(rows_of, holdouts)
def test_no_prompt_is_on_both_sides_and_no_row_is_lost(
    rows: list[Conversation], holdout: float | int
) -> None:
    wanted = holdout if isinstance(holdout, int) else round(holdout * len(rows))
    try:
        kept, held = split_off(rows, holdout, "rows.jsonl")
    except UserError:
        alone = [r for r in rows if sum(r.question == o.question for o in rows) <= wanted]
        assert not 0 < wanted < len(rows) or not alone
        return
    assert sorted(kept + held) == list(range(len(rows)))
    assert kept == sorted(kept) and held == sorted(held) and kept and 0 < len(held) <= wanted
    sides = [{" ".join(rows[i].turns[0].content.split()) for i in side} for side in (kept, held)]
    assert not sides[0] & sides[1]


def spoken(texts: str) -> Conversation:
    """A letter for each turn, of the user and the assistant by turns."""
    roles = ("user", "assistant")
    return Conversation(tuple(Turn(roles[i % 2], text) for i, text in enumerate(texts)))


texts_of = st.text("ab", min_size=2, max_size=6).filter(lambda text: len(text) % 2 == 0)


@given(st.lists(texts_of, min_size=2, max_size=20), st.integers(1, 19))
def test_no_scored_prompt_stands_in_a_conversation_that_is_trained_on(
    texts: list[str], holdout: int
) -> None:
    """Its question followed by an answer would be learned there."""
    try:
        kept, held = split_off([spoken(text) for text in texts], holdout, "rows.jsonl")
    except UserError:
        return
    for i in held:
        asked = texts[i][:-1]
        assert not any(texts[j].startswith(asked) for j in kept)


@given(st.permutations([row(str(i)) for i in range(12)]), st.integers(1, 11))
def test_the_order_of_the_rows_does_not_matter(rows: list[Conversation], holdout: int) -> None:
    plain = sorted(rows, key=lambda one: one.question)
    found = [{some[i].question for i in split_off(some, holdout, "")[1]} for some in (rows, plain)]
    assert found[0] == found[1] and len(found[0]) == holdout


def test_rows_that_are_added_move_few_of_the_others() -> None:
    rows = [row(f"question {i}") for i in range(200)]
    before, after = (
        {some[i].question for i in split_off(some, 0.1, "")[1]}
        for some in (rows, [*rows, row("one more")])
    )
    assert len(before) == len(after) == 20 and len(before & after) >= 19


def test_prompts_are_the_turns_before_the_answer() -> None:
    assert again([row("a"), row(" a\n"), row("a", "other"), row("a", system="be")]) == 2


@pytest.mark.parametrize(
    ("holdout", "says"),
    [(0.01, "of 4 rows is none"), (0.9, "is all of its 4 rows"), (4, "is all of its 4 rows")],
)
def test_a_side_without_rows_is_refused(holdout: float | int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        split_off([row(str(i)) for i in range(4)], holdout, "a.jsonl")
    with pytest.raises(UserError, match="stay together"):
        split_off([row("a"), row("a", "y"), row("b"), row("b")], 1, "a.jsonl")
