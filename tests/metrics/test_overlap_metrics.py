"""BLEU against nltk, SARI against a plain version, code similarity against its definition."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import sentence_bleu
from sacrebleu.metrics import BLEU

from cl_bench.metrics.bleu import bleu, tokenize
from cl_bench.metrics.sari import sari
from cl_bench.metrics.similarity import BACKENDS, restore_literals, similarity

texts = st.lists(
    st.sampled_from(["a ", "b ", "A ", "c. ", "1.5 ", "x,", "ä ", "文", "-\n", "&amp;", "\t"]),
    max_size=14,
).map("".join)
code = st.lists(
    st.sampled_from(["<STR_LIT:", "<NUM_LIT:", "<NUM_LIT>", "<STR_LIT>", ">", "x", "1", " = "]),
    max_size=12,
).map("".join)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("order", [1, 4])
@settings(max_examples=150, deadline=None)
@given(prediction=texts, reference=texts)
def test_bleu_is_nltks(order: int, prediction: str, reference: str) -> None:
    hypothesis, target = (
        [token for token in re.split(r"\s|\.", text) if token] for text in (prediction, reference)
    )
    assert tokenize(prediction) == hypothesis
    expected = sentence_bleu([target], hypothesis, (1 / order,) * order)
    assert bleu(prediction, reference, order) == pytest.approx(expected, abs=1e-12)


def test_bleu_differs_from_sacrebleu() -> None:
    ours = bleu("The motion passed!", "The motion passed.", 1)
    theirs = BLEU(max_ngram_order=1).sentence_score("The motion passed!", ["The motion passed."])
    assert ours == pytest.approx(2 / 3) and theirs.score == pytest.approx(75)


def plain_sari(source: str, prediction: str, reference: str) -> float:
    """Loops over distinct n-grams, from the definition."""
    tokenizer = BLEU().tokenizer
    words = [tokenizer(text.lower()).split(" ") for text in (source, prediction, reference)]
    scores = []
    for n in range(1, 5):
        s, p, r = (Counter(tuple(w[i : i + n]) for i in range(len(w) - n + 1)) for w in words)
        kept = {g: min(s[g], p[g]) for g in s if p[g]}
        good = {g: min(count, r[g]) for g, count in kept.items()}
        wanted = sum(min(s[g], r[g]) for g in s)
        keep_p = sum(good[g] / kept[g] for g in kept) / len(kept) if kept else 1
        keep_r = sum(good.values()) / wanted if wanted else 1
        gone = {g: s[g] - p[g] for g in s if s[g] > p[g]}
        rightly = sum(max(0, gone[g] - r[g]) / gone[g] for g in gone)
        new = [g for g in p if g not in s]
        asked = [g for g in r if g not in s]
        hit = len([g for g in new if g in r])
        add_p, add_r = hit / len(new) if new else 1, hit / len(asked) if asked else 1
        f1 = [2 * a * b / (a + b) if a + b else 0 for a, b in ((keep_p, keep_r), (add_p, add_r))]
        scores.append((*f1, rightly / len(gone) if gone else 1))
    return 100 * sum(map(sum, scores)) / 12


@settings(max_examples=200, deadline=None)
@given(texts, texts, texts)
def test_sari_is_its_definition(source: str, prediction: str, reference: str) -> None:
    expected = plain_sari(source, prediction, reference)
    assert sari(source, prediction, reference) == pytest.approx(expected, abs=1e-9)


def test_sari_of_nothing_is_rewarded() -> None:
    assert sari("a long sentence to be made short", "", "a short sentence") > 25


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("x = <NUM_LIT>", "x = 0"),
        ("<STR_LIT><CHAR_LIT>", ""),
        ("f ( <STR_LIT:a b> , <NUM_LIT:3> )", "f ( a b , 3 )"),
        ("<STR_LIT:a\nb>", "a\nb"),
        ("<STR_LIT:open", "<STR_LIT:open"),
        # A marker that appears only by a replacement is replaced if it also stands elsewhere.
        ("<STR_LIT:<NUM_LIT:3>>", "<NUM_LIT:3>"),
        ("<STR_LIT:<NUM_LIT:3>> <NUM_LIT:3>", "3 3"),
    ],
)
def test_literals(raw: str, plain: str) -> None:
    assert restore_literals(raw) == plain


def indel_ratio(ours: str, theirs: str) -> float:
    """2 * longest common subsequence / total length."""
    row = [0] * (len(theirs) + 1)
    for x in ours:
        before = row[:]
        for j, y in enumerate(theirs):
            row[j + 1] = before[j] + 1 if x == y else max(before[j + 1], row[j])
    return 2 * row[-1] / (len(ours) + len(theirs))


@settings(deadline=None)
@given(code, code)
def test_similarity_levenshtein(prediction: str, reference: str) -> None:
    ours, theirs = restore_literals(prediction), restore_literals(reference)
    value = similarity(prediction, reference, "levenshtein")
    if not ours or not theirs:
        assert value == 0
    else:
        assert abs(value - 100 * indel_ratio(ours, theirs)) <= 0.5 + 1e-9


@pytest.mark.parametrize("backend", BACKENDS)
def test_similarity_extremes(backend: str) -> None:
    assert similarity("x = 1", "x = 1", backend) == 100
    assert similarity("<STR_LIT>", "<STR_LIT>", backend) == 0
    assert similarity("", "x", backend) == similarity("x", "", backend) == 0
    assert similarity("abc", "xyz", backend) == 0


def test_similarity_is_not_symmetric_with_difflib() -> None:
    pairs = pairwise(["tide", "diet", "tide"])
    assert [similarity(a, b) for a, b in pairs] == [25, 50]
