"""Every form a task of lm-evaluation-harness takes, as prompt/answer pairs."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.task import ConfigurableTask

from cl_bench.data.examples import (
    sample_documents,
    seeded_subset,
    training_examples,
)
from cl_bench.errors import UserError

ROWS = [
    {"q": "One?", "a": "yes", "i": 1, "c": ["no", "yes"], "many": ["yes", "aye"], "ids": [1, 0]},
    {"q": "Two?", "a": "[1, 2]", "i": 0, "c": ["[1, 2]", "b"], "many": ["[1, 2]"], "ids": [0]},
]


def make_task(rows: list[dict[str, Any]] = ROWS, **config: Any) -> ConfigurableTask:
    data = {"train": Dataset.from_list(rows), "test": Dataset.from_list(ROWS)}
    settings = {
        "task": "t",
        "custom_dataset": lambda **_: data,
        "training_split": "train",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "q",
        "doc_to_target": "a",
        "generation_kwargs": {"until": ["\n"]},
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "process_results": lambda doc, results: {"acc": 0.0},
    }
    if config.get("output_type", "generate_until") != "generate_until":
        del settings["generation_kwargs"], settings["process_results"]
    return ConfigurableTask(config=settings | config)


def pairs(**config: Any) -> list[tuple[str, str]]:
    return [(e.prompt, e.answer) for e in training_examples(make_task(**config), None, 0)]


def scored_pairs(task: ConfigurableTask) -> list[list[tuple[str, str]]]:
    """What lm-eval scores for each training document: its (context, continuation) pairs."""
    scored = []
    for doc in task.training_docs():
        context = task.fewshot_context(doc=doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc))
        requests = task.construct_requests(doc=doc, ctx=context, metadata=("t", 0, 1))
        listed = requests if isinstance(requests, list) else [requests]
        scored.append([request.args for request in listed])
    return scored


def test_a_named_field_is_taken_as_it_is():
    assert pairs() == [("One?", " yes"), ("Two?", " [1, 2]")]
    assert pairs(target_delimiter="") == [("One?", "yes"), ("Two?", "[1, 2]")]


def test_templates_description_and_delimiter():
    found = pairs(
        doc_to_text="Q: {{q}}\nA:",
        doc_to_target="{{a}}!",
        description="Answer this.\n\n",
        target_delimiter="\n",
    )
    assert found[0] == ("Answer this.\n\nQ: One?\nA:", "\nyes!")


def test_a_description_is_a_template_too():
    assert pairs(description="About {{a}}: ")[0][0] == "About yes: One?"


def test_functions_make_prompt_and_answer():
    found = pairs(doc_to_text=lambda doc: doc["q"].upper(), doc_to_target=lambda doc: doc["a"] * 2)
    assert found[0] == ("ONE?", " yesyes")


def test_the_first_of_a_list_of_targets():
    assert pairs(doc_to_target="many")[0] == ("One?", " yes")
    assert pairs(doc_to_target=["given", "other"])[0] == ("One?", " given")


def test_a_number_without_choices_is_its_text():
    assert pairs(doc_to_target="i") == [("One?", " 1"), ("Two?", " 0")]


def test_an_index_into_choices_when_text_is_generated():
    assert pairs(doc_to_target="i", doc_to_choice="c") == [("One?", " yes"), ("Two?", " [1, 2]")]
    assert pairs(doc_to_target="{{i}}", doc_to_choice=["x", "y"])[0] == ("One?", " y")


@pytest.mark.parametrize(
    "target",
    ["i", "{{i}}", "ids", "a", lambda doc: doc["i"]],
    ids=["index", "template", "list", "letter", "function"],
)
def test_multiple_choice_is_the_pair_that_scoring_takes_for_gold(target):
    choices = {"output_type": "multiple_choice", "doc_to_choice": "{{c}}"}
    task = make_task(doc_to_target=target, **choices)
    examples = training_examples(task, None, 0)
    gold = [row["i"] for row in ROWS]
    expected = [pairs[index] for pairs, index in zip(scored_pairs(task), gold, strict=True)]
    assert [(e.prompt, e.answer) for e in examples] == expected
    assert {e.kind for e in examples} == {"choice"}


def test_choices_named_by_a_dict():
    found = pairs(
        output_type="multiple_choice", doc_to_target="i", doc_to_choice={"a": "no", "b": "yes"}
    )
    assert [answer for _, answer in found] == [" yes", " no"]


def test_choices_in_the_context_take_the_gold_context():
    """Winogrande's form: the choices are contexts, the target is what follows all of them."""
    task = make_task(
        output_type="multiple_choice",
        doc_to_text=lambda doc: doc["i"],
        doc_to_choice=lambda doc: [f"{doc['q']} {c}" for c in doc["c"]],
        doc_to_target=lambda doc: "the end.",
    )
    examples = training_examples(task, None, 0)
    expected = [p[row["i"]] for p, row in zip(scored_pairs(task), ROWS, strict=True)]
    assert [(e.prompt, e.answer) for e in examples] == expected
    assert examples[0].prompt == "One? yes"


def test_a_loglikelihood_target_follows_without_delimiter():
    task = make_task(output_type="loglikelihood", doc_to_target=" {{a}}")
    (first, _) = training_examples(task, None, 0)
    assert (first.prompt, first.answer) == scored_pairs(task)[0][0] == ("One?", " yes")
    assert first.kind == "choice"


def test_a_prefix_of_the_answer_belongs_to_the_prompt():
    found = pairs(gen_prefix="So:", target_delimiter="\n")
    task = make_task(gen_prefix="So:", target_delimiter="\n")
    assert found[0] == ("One?\nSo:", " yes")
    assert [prompt for prompt, _ in found] == [s[0][0] for s in scored_pairs(task)]
    assert pairs(gen_prefix="So: ")[0] == ("One? So: ", "yes")
    choice = make_task(
        gen_prefix="So:", output_type="multiple_choice", doc_to_target="i", doc_to_choice="c"
    )
    (first, _) = training_examples(choice, None, 0)
    assert (first.prompt, first.answer) == scored_pairs(choice)[0][1] == ("One? So:", " yes")


def test_few_shot_settings_do_not_reach_training():
    assert pairs(num_fewshot=1, fewshot_split="train") == pairs()


def test_examples_say_where_they_are_from():
    examples = training_examples(make_task(), None, 0)
    assert [(e.doc_id, e.task, e.kind) for e in examples] == [
        (0, "t", "generate"),
        (1, "t", "generate"),
    ]


MANY = [dict(ROWS[0], q=f"Number {i}?") for i in range(40)]


def test_limit_takes_a_seeded_sample_in_the_order_of_the_split():
    task = make_task(MANY)
    ids = [e.doc_id for e in training_examples(task, 10, seed=1)]
    assert len(set(ids)) == 10
    assert ids == sorted(ids) != list(range(10))
    assert ids == [e.doc_id for e in training_examples(make_task(MANY), 10, seed=1)]
    assert ids != [e.doc_id for e in training_examples(task, 10, seed=2)]
    assert ids != [e.doc_id for e in training_examples(make_task(MANY, task="u"), 10, seed=1)]
    assert len(training_examples(task, 99, seed=1)) == 40
    for one in training_examples(task, 10, seed=1):
        assert one.prompt == f"Number {one.doc_id}?"


@given(st.integers(0, 60), st.integers(0, 70), st.integers(0, 3))
def test_subsets_are_ascending_and_nested(size, limit, seed):
    ids = seeded_subset(size, limit, seed, "t")
    assert len(ids) == min(size, limit)
    assert ids == sorted(set(ids))
    assert all(0 <= i < size for i in ids)
    assert set(ids) <= set(seeded_subset(size, limit + 1, seed, "t"))


def test_documents_to_score_are_a_seeded_sample_of_the_test_split():
    task = make_task()
    assert sample_documents(task, None, 0) == [0, 1]
    assert sample_documents(task, 1, 0) in ([0], [1])
    assert sample_documents(task, 1, 0) == sample_documents(task, 1, 0)


class OwnPrompts(ConfigurableTask):
    """What a YAML with `class:` makes."""


def refusal(task: Any) -> str:
    with pytest.raises(UserError) as error:
        training_examples(task, None, 0)
    return str(error.value)


def test_tasks_without_a_text_target_are_refused_with_the_reason():
    rolling = make_task(output_type="loglikelihood_rolling", doc_to_target="q")
    assert "t: cannot be trained on: it measures perplexity" in refusal(rolling)
    own = OwnPrompts(config=dict(make_task().config.__dict__))
    assert "made by a Python class (OwnPrompts)" in refusal(own)
    assert "names no training_split" in refusal(make_task(training_split=None))
    pictures = make_task()
    pictures.config.doc_to_image = "q"
    assert "not text alone" in refusal(pictures)
    without = make_task()
    without.config.doc_to_target = None
    assert "no doc_to_target" in refusal(without)


def test_an_empty_or_absent_training_set_is_refused():
    task = make_task()
    task.dataset = task.dataset | {"train": task.dataset["train"].select([])}
    assert "its training set is empty" in refusal(task)
    task.config.training_split = "validation"
    assert "'validation' is not in its data" in refusal(task)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"doc_to_target": lambda doc: []}, "its list of targets is empty"),
        ({"doc_to_target": lambda doc: None}, "its target is null"),
        ({"doc_to_target": lambda doc: -1, "doc_to_choice": "c"}, "target -1 is none of its 2"),
        ({"doc_to_target": lambda doc: 2, "doc_to_choice": "c"}, "target 2 is none of its 2"),
        ({"doc_to_target": lambda doc: "x", "doc_to_choice": "c"}, "'x' is none of its 2"),
    ],
)
def test_every_document_without_a_target_is_named(config, reason):
    task = make_task()
    for key, value in config.items():
        setattr(task.config, key, value)
    message = refusal(task)
    assert [line.split(": ")[1] for line in message.splitlines()] == [
        "training document 0",
        "training document 1",
    ]
    assert reason in message


def test_documents_of_shots_stand_in_for_a_missing_training_split():
    """But never those that are scored."""
    task = make_task(training_split=None, fewshot_split="train")
    with pytest.raises(UserError, match="names no training_split"):
        training_examples(task, None, 0)
    found = training_examples(task, None, 0, shots=True)
    assert [(e.prompt, e.answer) for e in found] == pairs()
    with pytest.raises(UserError, match="names no training_split"):
        training_examples(make_task(training_split=None, fewshot_split="test"), None, 0, shots=True)
    assert training_examples(make_task(fewshot_split="test"), None, 0, shots=True) == (
        training_examples(make_task(), None, 0)
    )
