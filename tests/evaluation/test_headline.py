"""Which metric may be a task's score: decided, or refused, before anything is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cl_bench.data.loading import load_task_set
from cl_bench.errors import UserError
from cl_bench.evaluation.headline import headline_faults, headline_notes, headline_of

FUNCTIONS = """
def macro(items):
    return sum(gold == answer for gold, answer in items) / len(items)

def graded(doc, results):
    right = results[0] == doc["a"]
    return {"points": 37.0 if right else 0.0, "distance": 0.0 if right else 0.5}
"""
CHOICE = {"output_type": "multiple_choice", "doc_to_choice": ["no", "yes"]}
GENERATE = {
    "output_type": "generate_until",
    "doc_to_target": "a",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
}
OWN = GENERATE | {"process_results": "!function own.graded"}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """A function from the keys of a YAML to its loaded task; the rows have two labels."""
    rows = [{"q": f"q{i}", "a": f"answer {i}", "gold": i % 2} for i in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.py").write_text(FUNCTIONS)

    def loaded(metrics: list[Any], extra: dict[str, Any], **metadata: Any) -> Any:
        files = {split: str(tmp_path / "rows.jsonl") for split in ("train", "test")}
        listed = [m if isinstance(m, dict) else {"metric": m} for m in metrics]
        config = {
            "task": "mine",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "training_split": "train",
            "test_split": "test",
            "doc_to_text": "q",
            "doc_to_target": "gold",
            "metric_list": listed,
            "metadata": {"version": 1.0, **metadata},
        }
        text = yaml.safe_dump(config | extra).replace("'!function ", "!function '")
        (tmp_path / "mine.yaml").write_text(text)
        return load_task_set(["mine"], task_paths=[tmp_path]).tasks["mine"]

    return loaded


def own(name: str, **keys: Any) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", **keys}


@pytest.mark.parametrize(
    ("metrics", "extra", "metric", "scale"),
    [
        (["acc", "f1"], CHOICE, "acc", 1.0),
        (["f1", "acc_norm", "acc"], CHOICE, "acc_norm", 1.0),
        (["mcc"], CHOICE, "mcc", 1.0),
        (["brier_score", "acc"], CHOICE, "acc", 1.0),
        (["perplexity", "acc"], {"output_type": "loglikelihood", "doc_to_target": "a"}, "acc", 1.0),
        (["ter", "bleu", "chrf"], GENERATE, "bleu", 100.0),
        (["ter", "exact_match"], GENERATE, "exact_match", 1.0),
    ],
)
def test_the_first_metric_that_is_a_score_is_taken(
    load: Any, metrics: list[str], extra: dict[str, Any], metric: str, scale: float
) -> None:
    task = load(metrics, extra)
    found = headline_of(task)
    assert (found.metric, found.scale) == (metric, scale)
    notes = list(headline_notes([task]))
    assert bool(notes) == (metric != metrics[0] or found.corpus), "what was decided is said"
    assert all(metric in note for note in notes)


@pytest.mark.parametrize(
    ("metrics", "extra", "metadata", "words"),
    [
        (["brier_score"], CHOICE, {}, ["brier_score: lower is better"]),
        (["acc", "perplexity"], CHOICE, {"headline": "brier"}, ["no such metric", "acc"]),
        (["acc", "brier_score"], CHOICE, {"headline": "brier_score"}, ["lower", "would do: acc"]),
        (["acc"], CHOICE, {"filter": "strict"}, ["no such filter"]),
        (["acc"], CHOICE, {"scale": 0}, ["scale: 0"]),
        (["acc"], CHOICE, {"scale": True}, ["scale: True"]),
        ([own("acc", higher_is_better=False)], CHOICE, {}, ["lower is better"]),
        (["likelihood"], CHOICE, {}, ["likelihood", "tuple"]),
        (["f1"], CHOICE | {"doc_to_choice": ["a", "b", "c"]}, {}, ["two labels", "3"]),
        (["f1"], GENERATE, {}, ["f1"]),
        (["ter"], GENERATE, {}, ["lower is better"]),
        ([own("points", higher_is_better=True)], OWN, {}, ["points is 37", "scale: 100"]),
        ([own("distance")], OWN, {}, ["higher_is_better"]),
        (
            [{"metric": "mcc", "aggregation": "!function own.macro"}],
            CHOICE,
            {},
            ["headline: mcc", "range is not known"],
        ),
        (
            ["word_perplexity", "bits_per_byte"],
            {"output_type": "loglikelihood_rolling", "doc_to_target": "a"},
            {},
            ["word_perplexity: lower is better", "leave it out of eval.general.tasks"],
        ),
    ],
)
def test_what_is_no_score_is_refused(
    load: Any,
    metrics: list[Any],
    extra: dict[str, Any],
    metadata: dict[str, Any],
    words: list[str],
) -> None:
    (fault,) = headline_faults([load(metrics, extra, **metadata)])
    assert fault.startswith("mine: ")
    assert all(word in fault for word in words), fault


def test_a_yaml_names_a_metric_of_all_documents_and_a_scale(load: Any) -> None:
    found = headline_of(load(["acc", "mcc"], CHOICE, headline="mcc"))
    assert (found.metric, found.corpus, found.low) == ("mcc", True, -1.0)
    custom = {"metric": "mcc", "aggregation": "!function own.macro"}
    assert headline_of(load([custom], CHOICE, headline="mcc")).corpus
    points = load([own("points", higher_is_better=True)], OWN, headline="points", scale=40)
    assert headline_of(points).scale == 40.0


def test_a_metric_that_cannot_be_computed_is_said_and_the_others_go_on(load: Any) -> None:
    task = load(["acc", "f1"], CHOICE | {"doc_to_choice": ["a", "b", "c"]})
    assert headline_of(task).metric == "acc"
    (note,) = headline_notes([task])
    assert note.startswith("mine: its metric f1 is not computed") and "two labels" in note


def test_a_task_that_cannot_be_tried_is_judged_by_what_it_lists(load: Any) -> None:
    task = load(["acc"], CHOICE)
    task.UNSAFE_CODE = True
    assert headline_of(task).metric == "acc"
    task.config.metadata["headline"] = "pass"
    with pytest.raises(UserError, match="no such metric; these would do: acc"):
        headline_of(task)


def test_a_metric_that_may_cost_money_is_tried_once(load: Any) -> None:
    task = load([own("points", higher_is_better=True)], OWN, headline="points", scale=40)
    whole, asked = task.process_results, []
    task.process_results = lambda *given: asked.append(given) or whole(*given)
    headline_of(task)
    first = len(asked)
    assert list(headline_faults([task])) == []
    assert list(headline_notes([task])) == []
    assert len(asked) == first > 0
