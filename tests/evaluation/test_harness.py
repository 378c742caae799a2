"""From lm-eval's samples to a cell: labels, majority, headline."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cl_bench.evaluation.harness import group_json, summarise_task


def sample(doc: int, target: str, prediction: str, score: float) -> dict[str, Any]:
    return {
        "doc_id": doc,
        "prompt_hash": f"hash {doc}",
        "target": target,
        "filter": "none",
        "filtered_resps": [prediction],
        "metrics": ["accuracy", "score"],
        "accuracy": score,
        "score": score,
    }


def task(name: str, **metadata: Any) -> Any:
    return SimpleNamespace(task_name=name, config=SimpleNamespace(metadata=metadata))


def test_a_classification_cell_has_shares_and_the_best_constant_answer() -> None:
    samples = [
        sample(0, "A", "A", 1.0),
        sample(3, "A", "B", 0.0),
        sample(5, "B", "B", 1.0),
        sample(9, "A", "no idea", 0.0),
    ]
    result = summarise_task(task("trace_fomc"), samples)
    assert result.to_json() == {
        "score": 0.5,
        "stderr": result.cell.stderr,
        "n": 4,
        "metrics": {"accuracy": 0.5},
        "majority": 0.75,
        "labels": {"A": 0.25, "B": 0.5, "C": 0.0, "other": 0.25},
    }
    assert [record["doc_id"] for record in result.records] == [0, 3, 5, 9]
    assert summarise_task(task("unknown"), samples).majority is None
    assert summarise_task(task("own", labels=["A", "B"]), samples).majority == 0.75


def test_scienceqa_is_labelled_by_its_first_letter() -> None:
    samples = [
        sample(0, "A\nbecause", "A\nsince", 1.0),
        sample(1, "B\nbecause", "A dog", 0.0),
        sample(2, "B\nbecause", "", 0.0),
    ]
    result = summarise_task(task("trace_scienceqa"), samples)
    assert result.majority == 2 / 3
    assert result.labels == {"A": 2 / 3, "B": 0.0, "other": 1 / 3}


def test_a_yaml_can_name_the_headline_and_the_filter() -> None:
    strict = sample(0, "1", "1", 1.0) | {"filter": "strict"}
    loose = sample(0, "1", "2", 0.0) | {"filter": "loose"}
    result = summarise_task(task("x", headline="accuracy", filter="loose"), [strict, loose])
    assert result.cell.score == 0.0
    assert result.metrics == {"accuracy,strict": 1.0, "accuracy,loose": 0.0}


def test_a_group_is_the_unweighted_mean_beside_the_weighted_one() -> None:
    first = summarise_task(task("a"), [sample(i, "1", "1", 1.0) for i in range(3)])
    second = summarise_task(task("b"), [sample(0, "1", "2", 0.0)])
    found = group_json({"a": first, "b": second})
    assert (found["score"], found["weighted"], found["n"]) == (0.5, 0.75, 4)
    assert list(found["members"]) == ["a", "b"]
    assert group_json({"a": first}) == first.to_json()
