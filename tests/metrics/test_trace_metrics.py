"""Accuracies, the modern column, the task table, and invariants over arbitrary text."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from cl_bench.errors import UserError
from cl_bench.metrics import modern
from cl_bench.metrics.accuracy import exact_match, first_character_match, label_shares
from cl_bench.metrics.accuracy import majority_baseline as majority
from cl_bench.metrics.trace import (
    modern_document,
    score_corpus,
    score_document,
)
from cl_bench.metrics.trace_tasks import TASKS, trace_task

KINDS = sorted({task.kind for task in TASKS.values()})
# Lone surrogates too: json.loads produces them from escapes.
anything = st.text(st.characters(), max_size=60) | st.text(" .\n\t<>:,A1", max_size=30)
MAXIMUM_IF_EQUAL = {"label", "number", "summary", "code"}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(prediction=anything, reference=anything, source=anything)
@example(prediction="\ud800", reference="\ud800.", source="\x00")
@example(prediction=" ", reference=".", source="")
def test_any_text_scores_in_range(kind: str, prediction: str, reference: str, source: str) -> None:
    for name, value in score_document(kind, prediction, reference, source).items():
        top = 100 if name in ("sari", "similarity") else 1
        assert -1e-9 <= value <= top + 1e-9, name
    for name, value in modern_document(kind, prediction, reference).items():
        top = 100 if name.startswith(("sacrebleu", "similarity")) else 1
        assert -1e-9 <= value <= top + 1e-9, name


@settings(max_examples=200, deadline=None)
@given(anything)
def test_identical_texts_score_the_maximum(text: str) -> None:
    for kind in MAXIMUM_IF_EQUAL:
        result = score_document(kind, text, text)
        nothing_left = not text or result["unscorable"]
        if kind == "code":
            from cl_bench.metrics.similarity import restore_literals

            nothing_left = not restore_literals(text)
        assert result["score"] == pytest.approx(0 if nothing_left else 1, abs=1e-8)


def test_task_table() -> None:
    assert [task.trace_name for task in TASKS.values()] == [
        "C-STANCE", "FOMC", "MeetingBank", "Py150",
        "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten",
    ]  # fmt: skip
    assert [name for name, task in TASKS.items() if task.needs_input] == ["trace_20minuten"]
    assert [name for name, task in TASKS.items() if task.labels] == ["trace_cstance", "trace_fomc"]
    for name, task in TASKS.items():
        assert trace_task(name) == trace_task(task.trace_name.upper()) == task
    with pytest.raises(UserError, match=r"'trace_fomcc'.*did you mean 'trace_fomc'"):
        trace_task("trace_fomcc")


def test_documents_that_trace_cannot_score() -> None:
    """Every metric of such a document is 0, also the ones that TRACE had computed before."""
    assert score_document("summary", "...", "a b")["unscorable"] == 1
    failing = score_document("choice_with_reasoning", "A\n...", "A\nBecause.")
    assert failing == dict.fromkeys(("bleu-1", "bleu-4", "rouge-L", "accuracy", "score"), 0.0) | {
        "unscorable": 1.0
    }
    assert score_document("simplification", ".", "Ein Satz.", "Ein langer Satz.")["sari"] == 0
    assert score_document("choice_with_reasoning", "A", "A\nBecause")["unscorable"] == 0
    result = score_corpus("ScienceQA", ["", "A\nx y"], ["A\nx y", "A\nx y"])
    assert (result.n, result.n_unscorable, result.score) == (2, 1, 0.5)


def test_corpus_of_labels() -> None:
    result = score_corpus("FOMC", ["A", "A ", "A", "B"], ["A", "A", "B", "C"]).to_json()
    assert result["task"] == "trace_fomc" and result["score"] == 0.25
    assert result["stderr"] == pytest.approx(0.25)
    assert result["majority"] == 0.5
    assert result["labels"] == {"A": 0.5, "B": 0.25, "C": 0.0, "other": 0.25}
    assert result["modern"] == {"lenient_accuracy": 0.5}
    assert "similarity_backend" not in result


def test_corpus_of_code_names_its_backend() -> None:
    result = score_corpus("Py150", ["x = 1"], ["x = 2"]).to_json()
    assert result["similarity_backend"] == "difflib"
    assert result["metrics"] == {"similarity": 80} and result["score"] == 0.8
    assert result["modern"] == {"similarity_levenshtein": 80}
    assert "majority" not in result and "stderr" not in result


def test_corpus_refuses_unequal_columns() -> None:
    with pytest.raises(UserError, match="1 predictions, 2 references"):
        score_corpus("FOMC", ["A"], ["A", "B"])
    with pytest.raises(UserError, match="reads the input"):
        score_corpus("20Minuten", ["A"], ["A"])
    with pytest.raises(UserError, match="1 predictions, 0 inputs"):
        score_corpus("20Minuten", ["A"], ["A"], [])


def test_strict_accuracy() -> None:
    assert exact_match("A", "A") == 1
    assert [exact_match(text, "A") for text in ("A ", "a", "A.", "", "AA")] == [0] * 5
    assert exact_match("", "") == first_character_match("", "") == 0
    assert first_character_match("Answer: B", "A\nBecause") == 1
    assert first_character_match(" A", "A") == 0
    assert majority([]) is None and majority(["A", "B", "A"]) == pytest.approx(2 / 3)
    assert label_shares([], ["A"]) == {}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"), (" (B).", "B"), ("答案：C", "C"), ("选C", "C"), ("Die Antwort ist A", "A"),
        ("<s>B", "B"), ("Answer: D", "D"), ("A.支持", "A"), ("hawkish", None), ("AA", None),
        ("a", None), ("Äpfel", None), ("E", None), ("", None), ("A1", None),
    ],
)  # fmt: skip
def test_lenient_letter(text: str, letter: str | None) -> None:
    assert modern.letter(text) == letter
    assert modern.lenient_letter(text, "A") == float(letter == "A")


@pytest.mark.parametrize(
    ("prediction", "reference", "equal"),
    [
        ("1250", "1,250", True), ("36.0", "36", True), (" 36\n", "36", True), (".5", "0.5", True),
        ("−2", "-2", True), ("1e3", "1000", True), ("36.", "36", True), ("yes ", "yes", True),
        ("+4", "4", True), ("5", "-5", False), ("3 6", "36", False), ("4 mol", "4", False),
        ("12,50", "1250", False), ("The answer is 36", "36", False), ("", "", False),
        (".", "0", False), ("", "0", False), ("Yes", "yes", False), ("1e9999", "1", False),
        ("٣", "3", False), ("nan", "0", False),
    ],
)  # fmt: skip
def test_lenient_number(prediction: str, reference: str, equal: bool) -> None:
    assert modern.lenient_number(prediction, reference) == float(equal)


@settings(max_examples=100, deadline=None)
@given(st.text("ab c.ä", max_size=30), st.text("ab c.ä", max_size=30))
def test_modern_rouge_is_rouge_scores(prediction: str, reference: str) -> None:
    expected = RougeScorer(["rougeL"]).score(reference, prediction)["rougeL"].fmeasure
    assert modern.rouge_score_l(prediction, reference) == pytest.approx(expected, abs=1e-12)


def test_modern_column_of_a_corpus() -> None:
    predictions, references = ["the vote was seven to two", "x"], ["The vote was 7 to two", "x"]
    column = score_corpus("MeetingBank", predictions, references).modern
    assert set(column) == {"rouge_score_rougeL", "sacrebleu_sentence", "sacrebleu_corpus"}
    assert column["rouge_score_rougeL"] == pytest.approx((5 / 6 + 1) / 2)
    assert column["sacrebleu_corpus"] != pytest.approx(column["sacrebleu_sentence"])
    assert score_corpus("MeetingBank", [], []).modern == dict.fromkeys(column, 0.0)


def test_nothing_here_imports_torch() -> None:
    code = (
        "import sys\n"
        "from cl_bench.scores import matrix\n"
        "from cl_bench.results import predictions\n"
        "from cl_bench.metrics.trace import score_corpus\n"
        "score_corpus('20Minuten', ['a b'], ['a c'], ['a b c'])\n"
        "assert 'torch' not in sys.modules and 'lm_eval' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
