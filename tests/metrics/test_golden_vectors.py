"""Every vector that TRACE's own code produced, to 1e-9."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cl_bench.metrics.trace import score_corpus, score_document
from cl_bench.metrics.trace_tasks import TASKS

TRACE_NAMES = [task.trace_name for task in TASKS.values()]


def cases(shared_dir: Path, trace_name: str) -> list[dict[str, Any]]:
    text = (shared_dir / "golden" / f"{trace_name}.json").read_text(encoding="utf-8")
    loaded: list[dict[str, Any]] = json.loads(text)["cases"]
    assert loaded
    return loaded


@pytest.mark.parametrize("trace_name", TRACE_NAMES)
def test_corpus_values(shared_dir: Path, trace_name: str) -> None:
    for case in cases(shared_dir, trace_name):
        predictions, references = case["predictions"], case["references"]
        result = score_corpus(trace_name, predictions, references, case.get("inputs"))
        assert result.n == len(predictions)
        if "raises" in case:
            assert result.score == 0 and result.n_unscorable == len(predictions), case["name"]
            continue
        assert result.metrics == pytest.approx(case["expected"], abs=1e-9), case["name"]
        assert result.n_unscorable == 0
        if "expected_levenshtein" in case:
            other = score_corpus(trace_name, predictions, references, backend="levenshtein")
            assert other.metrics == pytest.approx(case["expected_levenshtein"], abs=1e-9)


@pytest.mark.parametrize("trace_name", TRACE_NAMES)
def test_mean_of_document_scores_is_the_headline(shared_dir: Path, trace_name: str) -> None:
    task = next(task for task in TASKS.values() if task.trace_name == trace_name)
    for case in cases(shared_dir, trace_name):
        if "raises" in case:
            continue
        inputs = case.get("inputs") or [None] * len(case["predictions"])
        rows = zip(case["predictions"], case["references"], inputs, strict=True)
        scores = [score_document(task.kind, p, r, s)["score"] for p, r, s in rows]
        expected = case["expected"][task.headline] / task.headline_maximum
        assert sum(scores) / len(scores) == pytest.approx(expected, abs=1e-9)


def test_code_backends_differ_where_reference_is_long(shared_dir: Path) -> None:
    """The reason why the backend is named: difflib's autojunk from 200 characters on."""
    line = "value = compute ( alpha , beta ) + offset ; " * 6
    scores = [
        score_corpus("Py150", [line[1:]], [line], backend=backend).score
        for backend in ("difflib", "levenshtein")
    ]
    assert scores[0] < 0.5 < 0.95 < scores[1]
