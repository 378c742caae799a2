"""From lm-eval's samples to a cell: labels, majority, headline."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.api.model import LM

from cl_bench.data.loading import load_task_set
from cl_bench.evaluation.harness import evaluate_tasks, group_json, summarise_task
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from tests.helpers.tiny import byte_tokenizer, tiny_model


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
    config = SimpleNamespace(metadata=metadata)
    return SimpleNamespace(task_name=name, config=config, OUTPUT_TYPE="generate_until")


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
        "metric": "score",
        "filter": "none",
        "aggregation": "mean",
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
    assert result.metrics == {
        "accuracy,strict": 1.0,
        "score,strict": 1.0,
        "accuracy,loose": 0.0,
        "score,loose": 0.0,
    }
    assert result.headline == "accuracy,loose"


def test_a_group_is_the_unweighted_mean_beside_the_weighted_one() -> None:
    first = summarise_task(task("a"), [sample(i, "1", "1", 1.0) for i in range(3)])
    second = summarise_task(task("b"), [sample(0, "1", "2", 0.0)])
    found = group_json({"a": first, "b": second}, {"a": 30, "b": 10})
    assert (found["score"], found["weighted"], found["n"]) == (0.5, 0.75, 4)
    assert found["metrics"] == {"accuracy": 0.5}
    assert list(found["members"]) == ["a", "b"]
    assert group_json({"a": first}, {"a": 30}) == first.to_json()


@pytest.mark.parametrize(
    ("headline", "choice"),
    [("acc", 0), ("acc_norm", 1), ("acc_bytes", 2), ("acc_mutual_info", 3)],
)
def test_the_record_says_which_choice_was_picked(headline: str, choice: int) -> None:
    multiple = SimpleNamespace(
        task_name="x",
        config=SimpleNamespace(metadata={"headline": headline}),
        OUTPUT_TYPE="multiple_choice",
        doc_to_choice=lambda doc: doc["choices"],
    )
    # Per character -10, -5, -6, -11; per byte -10, -5, -3, -11; beyond the choice alone 0, 0, 0, 9.
    texts = ["a", "bcde", "\u00e9\u00e9", "fg"]
    given, alone = [-10.0, -20.0, -12.0, -22.0], [-10.0, -20.0, -12.0, -31.0]
    scored = {
        "doc_id": 0,
        "doc": {"choices": texts},
        "prompt_hash": "hash",
        "target": 0,
        "filter": "none",
        "filtered_resps": [(value, False) for value in given + alone],
        "metrics": [headline],
        headline: 1.0,
    }
    (record,) = summarise_task(multiple, [scored]).records
    assert record["choice"] == choice
    multiple.config.metadata["labels"] = ["a", "bcde"]
    assert summarise_task(multiple, [scored]).majority is None, "labels are of generated answers"
    assert record["loglikelihoods"] == given + alone


@pytest.fixture
def drawing(tmp_path: Path) -> Any:
    """A task of a user that draws two shots for each document, and generates."""
    rows = "".join(json.dumps({"q": f"q{i}", "a": f"a{i}"}) + "\n" for i in range(30))
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "drawing.yaml").write_text(
        "task: drawing\ndataset_path: json\noutput_type: generate_until\nnum_fewshot: 2\n"
        f"dataset_kwargs: {{data_files: {{train: {tmp_path}/rows.jsonl, test: {tmp_path}/rows.jsonl"
        "}}\ntraining_split: train\ntest_split: test\ndoc_to_text: q\ndoc_to_target: a\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    return load_task_set(["drawing"], task_paths=[tmp_path]).tasks["drawing"]


def test_drawn_shots_are_the_same_in_every_call(drawing: Any) -> None:
    lm = SharedPrefixLM(tiny_model(), byte_tokenizer())
    calls = [evaluate_tasks(lm, {"drawing": drawing}, {"drawing": [3, 5]}, 2) for _ in range(2)]
    first, second = ([r["prompt_hash"] for r in call["drawing"].records] for call in calls)
    assert first == second and first[0] != first[1]


class Noting(LM):  # type: ignore[misc]
    """Answers nothing, and notes how long an answer might have been."""

    def __init__(self) -> None:
        super().__init__()
        self.caps: list[int | None] = []

    def generate_until(self, requests: Any) -> list[str]:
        self.caps += [request.args[1].get("max_gen_toks") for request in requests]
        return [""] * len(requests)

    def loglikelihood(self, requests: Any) -> Any:
        raise AssertionError("the tasks here only generate")

    loglikelihood_rolling = loglikelihood


def test_a_cap_holds_for_one_call(drawing: Any) -> None:
    lm = Noting()
    for cap in (1, 6, None):
        evaluate_tasks(lm, {"drawing": drawing}, {"drawing": [0]}, cap)
    assert lm.caps == [1, 6, 256]  # lm-eval's own default again
