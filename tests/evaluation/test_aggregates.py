"""Numbers of all documents together: their error, and differences of two models."""

from __future__ import annotations

from math import sqrt
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.api import metrics

from cl_bench.evaluation.aggregates import (
    aggregate,
    aggregated_elsewhere,
    aggregation_name,
    aggregation_of,
)
from cl_bench.evaluation.metric_values import summarise_metrics
from cl_bench.results.paired import entry_of, of_all_documents, paired_values
from cl_bench.scores.uncertainty import compare_paired, standard_error


def own_mean(items: Any) -> float:
    return sum(items) / len(items)


def raising(items: Any) -> float:
    raise ValueError("two\nlines")


def test_the_bootstrap_of_a_mean_is_the_standard_error() -> None:
    items = [float(i % 5 == 0) for i in range(400)]
    found = aggregate(own_mean, items, "task")
    assert found.value == own_mean(items) and len(found.resamples) == 200
    assert found.stderr == pytest.approx(standard_error(items), rel=0.15)
    assert found == aggregate(own_mean, items, "task"), "drawn from the name alone"
    assert found.resamples != aggregate(own_mean, items, "other").resamples


def test_cost_is_bounded_and_what_cannot_be_computed_says_why() -> None:
    assert len(aggregate(own_mean, [0.5] * 4000, "task").resamples) == 25
    assert len(aggregate(own_mean, [0.5] * 50_000, "task").resamples) == 20
    assert aggregate(own_mean, [1.0], "task").stderr is None
    failed = aggregate(raising, [1.0, 0.0], "task")
    assert (failed.value, failed.reason) == (None, "ValueError: two lines")
    assert aggregate(lambda items: float("inf"), [1, 2], "x").reason == "it is inf"
    # Some resamples of two documents hold one of them twice, of which this has no value.
    some = aggregate(lambda items: 1.0 / (len(set(items)) - 1), [1, 2], "task")
    assert (some.value, some.resamples, some.stderr) == (1.0, [], None)


def test_three_labels_and_words_leave_the_other_metrics_alone() -> None:
    known = {"f1": metrics.f1_score, "mcc": metrics.matthews_corrcoef, "why": metrics.bypass_agg}
    task = SimpleNamespace(task_name="t", aggregation=lambda: known)
    samples = [
        {"filter": "none", "metrics": ["acc", "f1", "mcc", "likelihood", "why"], "acc": 1.0}
        | {"f1": (i % 3, i % 3), "mcc": (i % 3, i % 3), "likelihood": (0, [1.0]), "why": "so"}
        for i in range(9)
    ]
    found = summarise_metrics(task, samples, "acc")
    assert found.values == {"acc": 1.0, "f1": None, "mcc": 1.0, "likelihood": None}
    assert found.not_computed.keys() == {"f1", "likelihood"}
    assert found.stderrs == {"mcc": 0.0}
    assert [aggregation_name(aggregation_of(task, n)) for n in ("acc", "mcc")] == [
        "mean",
        "matthews_corrcoef",
    ]


def test_lm_eval_aggregates_nothing_meanwhile() -> None:
    task: Any = SimpleNamespace(aggregation=lambda: {"f1": raising})
    with aggregated_elsewhere({"t": task}):
        assert task.aggregation()["f1"]([1]) == task.aggregation()["new"]([1]) == 0.0
    assert task.aggregation() == {"f1": raising}


def corpus(score: float, resamples: list[float]) -> dict[str, Any]:
    return {"score": score, "aggregation": "matthews_corrcoef", "resamples": resamples}


RECORDS = {"cola": [{"doc_id": i, "score": float(i % 2)} for i in range(4)]}


def test_differences_of_resamples_are_paired() -> None:
    first, second = corpus(0.4, [0.3, 0.5, 0.7]), corpus(0.3, [0.25, 0.4, 0.62])
    sides = [{"cola": paired_values(entry, RECORDS)} for entry in (first, second)]
    compared = compare_paired(sides[0], sides[1])
    assert compared.difference == pytest.approx(0.1)
    paired = [a - b for a, b in zip(first["resamples"], second["resamples"], strict=True)]
    assert compared.stderr == pytest.approx(standard_error(paired) * sqrt(3))  # type: ignore
    other = {"cola": [{"doc_id": 9, "score": 1.0}]}
    with pytest.raises(ValueError, match="share no document"):
        compare_paired(sides[0], {"cola": paired_values(second, other)})
    (alone,) = paired_values(corpus(0.4, []), RECORDS)
    assert alone[1] == 0.4, "the difference is known, its error is not"


def test_a_group_with_a_member_of_each_kind() -> None:
    plain = {"score": 0.5, "aggregation": "mean"}
    group = {"score": 0.45, "members": {"cola": corpus(0.4, [0.3, 0.4, 0.5]), "sst": plain}}
    scores = {"trace": {"one": plain}, "general": {"mean": 0.4, "glue": group}}
    assert entry_of(scores, "cola")["score"] == 0.4 and entry_of(scores, "none") == {}
    assert of_all_documents(group) and not of_all_documents(plain)
    records = RECORDS | {"sst": RECORDS["cola"]}
    values = [value for _, value in paired_values(group, records)]
    assert len(values) == 3 and own_mean(values) == pytest.approx(0.45)
    assert paired_values(plain, RECORDS)[1] == ("cola/1", 1.0)
