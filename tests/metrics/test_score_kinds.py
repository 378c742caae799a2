"""Which scores may lie between right and wrong: the metric says it, not the values it has."""

from __future__ import annotations

import pytest

from cl_bench.metrics.score_kinds import lies_between

EXACT, F1 = {"metric": "exact_match"}, {"metric": "f1"}


@pytest.mark.parametrize(
    "task, entry, between",
    [
        ("general_gsm8k", EXACT, False),
        ("mini_tydiqa", F1, True),
        ("trace_fomc", {"metric": "score"}, False),
        ("mini_scienceqa", {"metric": "score"}, False),
        ("mini_20minuten", {"metric": "score"}, True),
        ("trace_py150", {"metric": "score"}, True),
        ("general_humaneval", {"metric": "score", "metrics": {"score": 0, "timeout": 0}}, False),
        ("mine", {"metric": "score", "metrics": {"score": 0}}, True),
        ("mmlu", {"metric": "acc", "members": {"a": {"metric": "acc"}}}, False),
        ("both", {"metric": "acc/f1", "members": {"a": {"metric": "acc"}, "b": F1}}, True),
        ("old", {"score": 0.5}, None),
        ("old", {"members": {"a": None}}, None),
    ],
)
def test_the_metric_says_whether_scores_lie_between(task, entry, between):
    assert lies_between(task, entry) is between
