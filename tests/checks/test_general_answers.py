"""General's generated benchmarks before a run: their gold answers, limits and odd tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cl_bench.checks.found import Preflight
from cl_bench.checks.general_answers import check_general, odd_tokens
from cl_bench.config.schema import ExperimentConfig
from cl_bench.evaluation.answer_limits import limit_faults, limited, own_limit
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.harness import answers_capped
from cl_bench.evaluation.suite import Suite
from cl_bench.experiment.resolve import resolve
from tests.helpers.gold_tasks import WORDS, rows, task_of
from tests.helpers.tiny import byte_tokenizer

THOUGHT = {"function": "regex", "regex_pattern": "answer is (.*)\\."}
THINKING = [{"name": "get-answer", "filter": [THOUGHT, {"function": "take_first"}]}]


def checked(task: Any, **config: Any) -> tuple[list[str], list[str]]:
    full = {"name": "n", "model": {"path": "m"}, "methods": ["ori"], "stages": [{"task": "s"}]}
    read = ExperimentConfig.model_validate(full | config)
    suite = Suite({}, {"maps": {"compass": task}}, {"compass": range(3)}, {}, Engine("hf", {}))
    found = Preflight(resolve(read), suite, {}, "m", byte_tokenizer(), lambda line: None)
    return list(check_general(found)), found.notes


def test_answers_that_can_be_given_are_no_news():
    assert checked(task_of(WORDS)) == ([], [])
    # The gold text is not the sentence that a chain of thought ends in.
    assert checked(task_of(WORDS, filter_list=THINKING)) == ([], [])


@pytest.mark.parametrize(
    "task, said",
    [
        (task_of(WORDS, target_delimiter=" "), "target_delimiter ' '"),
        (task_of(["due north"], generation_kwargs={"until": [" "]}), "stop string ' '"),
        (task_of(["a</s>b"]), "special token `</s>`"),
        (task_of(["due north"], filter_list=THINKING, generation_kwargs={"until": [" "]}), "' '"),
    ],
)
def test_answers_that_nothing_can_give_are_refused(task, said):
    (fault,), _ = checked(task)
    assert fault.startswith("compass: ") and said in fault
    assert "eval.general.tasks" in fault and "allow_unreachable" in fault
    faults, notes = checked(task, allow_unreachable=True)
    assert not faults and any(said in note for note in notes)


def test_a_gold_text_beyond_the_limit_is_said_not_refused():
    faults, (note,) = checked(task_of(WORDS, generation_kwargs={"until": [], "max_tokens": 2}))
    assert not faults and "limit 2" in note and "train.max_answer_tokens" not in note


def test_special_tokens_of_documents_and_shots_are_noted():
    task = task_of(WORDS, train=["by <pad> north"], num_fewshot=1, fewshot_split="train")
    assert checked(task) == (
        [],
        ["maps: shots: 3 of 3 hold special tokens (`<pad>`), which the model reads as such"],
    )


def test_characters_without_a_token_are_counted():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    (line,) = odd_tokens(tokenizer, "maps", ["a a", "a b"])
    assert line.startswith("maps: 1 of 2 hold characters that the tokenizer does not know (`<unk>`")
    assert not list(odd_tokens(byte_tokenizer(), "maps", [row["q"] for row in rows(WORDS)]))


def test_every_name_of_a_limit_counts():
    assert own_limit({"max_new_tokens": 3}, 9) == 3 and own_limit(None, 9) == 9
    assert limited({"max_completion_tokens": 99, "until": []}, 7) == {
        "until": [],
        "max_gen_toks": 7,
    }
    task = task_of(WORDS, generation_kwargs={"until": [], "max_new_tokens": 3})
    with answers_capped([task], 8):
        assert task.config.generation_kwargs == {"until": [], "max_gen_toks": 3}
    assert task.config.generation_kwargs["max_new_tokens"] == 3


@pytest.mark.parametrize(
    "kwargs, said",
    [
        ({"max_gen_toks": "many"}, "max_gen_toks: 'many' is no number of tokens"),
        ({"max_tokens": 0}, "max_tokens: 0 is no number"),
        ({"max_gen_toks": 4, "max_new_tokens": 5}, "max_gen_toks and max_new_tokens: two limits"),
        ({"max_length": 40}, "max_length: it would count the prompt too"),
    ],
)
def test_limits_that_no_one_can_follow_are_refused(kwargs, said):
    task = SimpleNamespace(
        OUTPUT_TYPE="generate_until", config=SimpleNamespace(generation_kwargs=kwargs)
    )
    (fault,) = limit_faults({"mine": task})
    assert fault.startswith(f"mine: generation_kwargs.{said}")
    task.config.generation_kwargs = {"max_gen_toks": 8, "until": []}
    assert not list(limit_faults({"mine": task}))
