"""What the YAMLs of this folder call: TRACE's metrics of one document, by its answer's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cl_bench.metrics.trace import score_document

Row = Mapping[str, str]
Metrics = dict[str, float]


def label(doc: Row, results: Sequence[str]) -> Metrics:
    """C-STANCE, FOMC: the letter of a class."""
    return score_document("label", results[0], doc["answer"], None)


def number(doc: Row, results: Sequence[str]) -> Metrics:
    """NumGLUE-cm, NumGLUE-ds: a number, as text."""
    return score_document("number", results[0], doc["answer"], None)


def choice_with_reasoning(doc: Row, results: Sequence[str]) -> Metrics:
    """ScienceQA: the letter of a choice, then why."""
    return score_document("choice_with_reasoning", results[0], doc["answer"], None)


def summary(doc: Row, results: Sequence[str]) -> Metrics:
    """MeetingBank: a summary of the transcript."""
    return score_document("summary", results[0], doc["answer"], None)


def code(doc: Row, results: Sequence[str]) -> Metrics:
    """Py150: the next line of code."""
    return score_document("code", results[0], doc["answer"], None)


def simplification(doc: Row, results: Sequence[str]) -> Metrics:
    """20Minuten: the paragraph in simple German; TRACE gives SARI the full prompt as source."""
    return score_document("simplification", results[0], doc["answer"], doc["prompt"])
