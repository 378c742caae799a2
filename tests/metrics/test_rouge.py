from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_bench.metrics import rouge
from cl_bench.metrics.rouge import common_words, rouge_l, rouge_l_fails

words = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=12)
texts = st.lists(
    st.sampled_from(["a ", "b ", "c ", "A ", "a. ", "b.", "文 ", " ", "\n"]), max_size=20
)


def plain_common_words(row: list[str], column: list[str]) -> set[str]:
    """The table and the walk as the package defines them, cell by cell."""
    table = [[0] * (len(column) + 1) for _ in range(len(row) + 1)]
    for i, x in enumerate(row, 1):
        for j, y in enumerate(column, 1):
            same = table[i - 1][j - 1] + 1
            table[i][j] = same if x == y else max(table[i - 1][j], table[i][j - 1])
    i, j, found = len(row), len(column), set()
    while i and j:
        if row[i - 1] == column[j - 1]:
            found.add(row[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def plain_rouge_l(prediction: str, reference: str) -> float:
    rows, columns = (
        [" ".join(piece.split()).split(" ") for piece in text.split(".") if piece]
        for text in (prediction, reference)
    )
    union = set().union(*(plain_common_words(r, c) for r in rows for c in columns))
    recall = len(union) / len(set(chain(*rows)))
    precision = len(union) / len(set(chain(*columns)))
    return 2 * (precision * recall) / (precision + recall + 1e-8)


@given(words, words)
def test_common_words_follow_the_walk(row: list[str], column: list[str]) -> None:
    assert common_words(row, column) == plain_common_words(row, column)


@settings(max_examples=50)
@given(words, words)
def test_checkpoints_change_nothing(row: list[str], column: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rouge, "_MAX_TABLE_BYTES", 0)
        assert common_words(row, column) == plain_common_words(row, column)


@given(texts, texts)
def test_whole_texts(prediction: list[str], reference: list[str]) -> None:
    ours, theirs = "".join(prediction), "".join(reference)
    if not ours.strip(".") or not theirs.strip("."):
        assert rouge_l(ours, theirs) == 0
    else:
        assert rouge_l(ours, theirs) == pytest.approx(plain_rouge_l(ours, theirs), abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("b. a.", "a. b.", 1.0),  # permuted sentences
        ("a b a b a b", "a b", 1.0),  # repetition
        ("The motion", "the motion", 0.5),  # case
        ("市长 支持", "市长 支持", 1.0),
        ("a b", "b a", 0.5),
        (" ", " ", 1.0),  # a sentence of spaces is one empty word
        ("", "a", 0.0),
        ("a", "", 0.0),
    ],
)
def test_known_values(prediction: str, reference: str, expected: float) -> None:
    assert rouge_l(prediction, reference) == pytest.approx(expected, abs=1e-8)


def test_where_the_package_fails() -> None:
    assert rouge_l_fails("...", "a") and rouge_l_fails("a", ".")
    assert not rouge_l_fails("", ".") and not rouge_l_fails(" .", "a")
    assert rouge_l("...", "a") == 0


def test_long_texts_without_a_period() -> None:
    """TRACE's recursion ends here at 1,200 words."""
    same = "word " * 5000
    assert rouge_l(same, same) == pytest.approx(1, abs=1e-8)
    assert rouge_l("a b " * 3000, "b a " * 3000) == pytest.approx(1, abs=1e-8)
    assert rouge_l("x" * 2_000_000, "y" * 2_000_000) == 0
    assert rouge_l("a " * 1_000_000, "a") == pytest.approx(1, abs=1e-8)
    assert rouge_l("a. " * 300_000, "b. a. " * 100_000) == pytest.approx(2 / 3, abs=0.2)
