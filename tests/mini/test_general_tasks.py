"""The six generated General tasks: whole, and their gold answers score 1."""

from __future__ import annotations

import re
from typing import Any

import pytest
from lm_eval import evaluate
from lm_eval.api.model import LM

CHOICES = {"mini_mmlu": 4, "mini_boolq": 2, "mini_piqa": 2}
GENERATED = {"mini_bbh": "exact_match", "mini_tydiqa": "f1", "mini_gsm8k": "exact_match"}
GENERAL = sorted([*CHOICES, *GENERATED])


def rows(task: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in task.dataset["test"]]


class Oracle(LM):
    """Knows the gold answer of every document; `wrong` makes it choose anything else."""

    def __init__(self, task: Any, wrong: bool) -> None:
        super().__init__()
        self.task, self.wrong = task, wrong

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        scores = []
        for request in requests:
            choices = self.task.doc_to_choice(request.doc)
            gold = choices[self.task.doc_to_target(request.doc)]
            is_gold = request.args[1].strip() == gold
            scores.append((0.0 if is_gold != self.wrong else -9.0, False))
        return scores

    def generate_until(self, requests: list[Any]) -> list[str]:
        wrong = " zebra 999"
        return [wrong if self.wrong else f" {self.task.doc_to_target(r.doc)}" for r in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise NotImplementedError("no mini task scores whole texts")


def score(task: Any, name: str, wrong: bool) -> float:
    results = evaluate(
        lm=Oracle(task, wrong), task_dict={name: task}, bootstrap_iters=0, log_samples=True
    )
    task._instances = None
    metric = GENERATED.get(name, "acc")
    values = [sample[metric] for sample in results["samples"][name]]
    return float(sum(values) / len(values))


def test_every_task_resolves(tasks):
    assert set(GENERAL) == {name for name in tasks if not tasks[name].has_training_docs()}
    for name in GENERAL:
        assert "not comparable with" in tasks[name].config.metadata["note"]
        assert tasks[name].has_test_docs()


@pytest.mark.parametrize("name", GENERAL)
def test_gold_answers_score_one_and_wrong_ones_zero(tasks, name):
    assert score(tasks[name], name, wrong=False) == 1.0
    assert score(tasks[name], name, wrong=True) == 0.0


@pytest.mark.parametrize("name", GENERAL)
def test_documents_are_distinct(tasks, name):
    prompts = [tasks[name].doc_to_text(row) + str(sorted(row.items())) for row in rows(tasks[name])]
    assert len(set(prompts)) == len(prompts)
    assert 40 <= len(prompts) <= 64


@pytest.mark.parametrize(("name", "number"), CHOICES.items())
def test_choices_are_distinct_and_no_place_is_favoured(tasks, name, number):
    task = tasks[name]
    gold = []
    for row in rows(task):
        choices = task.doc_to_choice(row)
        assert len(set(choices)) == len(choices) == number
        gold.append(task.doc_to_target(row))
    shares = [gold.count(place) / len(gold) for place in range(number)]
    assert min(shares) > 0.5 / number
    assert max(shares) < 1.6 / number


def test_words_after_sequences(tasks):
    for row in rows(tasks["mini_bbh"]):
        assert row["target"] not in row["input"].split(", ")
        assert len(row["input"].split(", ")) == 3


def test_answers_of_the_passages_are_in_them(tasks):
    for row in rows(tasks["mini_tydiqa"]):
        assert row["answer"] in row["context"]
        assert row["answer"] not in row["question"]
    for row in rows(tasks["mini_boolq"]):
        asked = re.search(r" a (\w+)$", row["question"]).group(1)
        assert (asked in row["passage"]) == bool(row["label"])
    assert {row["language"] for row in rows(tasks["mini_tydiqa"])} == {"english", "indonesian"}


def test_sums_are_right(tasks):
    for row in rows(tasks["mini_gsm8k"]):
        assert int(row["answer"]) == sum(map(int, re.findall(r"\d+", row["question"])))


def test_f1_of_partial_answers(tasks):
    task = tasks["mini_tydiqa"]
    row = {"answer": "green tea"}
    assert task.process_results(row, [" Green tea."]) == {"f1": 1.0, "exact_match": 1.0}
    assert task.process_results(row, ["the tea"]) == {"f1": 0.5, "exact_match": 0.0}
    assert task.process_results(row, [""]) == {"f1": 0.0, "exact_match": 0.0}
