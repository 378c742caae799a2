"""The text of a prompt with examples, letter by letter, and which examples are in it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from cl_bench.data.examples import Example, own_prompt, training_examples
from cl_bench.data.in_context import HABITS, choose, ends_of, goes_without, layout_of
from tests.helpers.gold_tasks import WORDS, task_of

LEAD = (
    "We will give you several examples and you should follow them to accomplish the task.\n"
    " Examples:\n"
)


def example(prompt: str, answer: str, task: str = "t") -> Example:
    return Example(prompt, answer, 0, task, "generate")


def named(name: str) -> Any:
    task = task_of(["A"])
    task.config.task = name
    return task


def test_the_instruction_stands_once_and_every_prompt_goes_without_it() -> None:
    shots = [example("Do it.\n\nQuestion:\nwhy\nAnswer:", "x"), example("Do it.\n\nQ:", "y")]
    layout = layout_of("trace", task_of(["A"]), shots)
    assert layout.prompt(shots, "Do it.\n\nQuestion:\nhow\nAnswer:") == (
        f"Do it.\n\n{LEAD}Question:\nwhy\nAnswer:x\n\nQ:y\n\nQuestion:\nhow\nAnswer:"
    )
    assert layout.prompt([], "Do it.\n\nQ:") == "Do it.\n\nQ:"


def test_prompts_that_begin_differently_have_no_instruction() -> None:
    shots = [example("One.\nA:", "x"), example("Two.\nA:", "y")]
    layout = layout_of("trace", task_of(["A"]), shots)
    assert layout.prompt(shots[:1], "Three.\nA:") == f"{LEAD}One.\nA:x\n\nThree.\nA:"
    assert layout_of("trace", task_of(["A"]), shots[:1]).head == "", "one prompt shares nothing"


def test_code_gets_the_instruction_that_its_rows_lack() -> None:
    shots = [example("<s> a <EOL>", "b"), example("<s> c <EOL>", "d")]
    layout = layout_of("trace", named("trace_py150"), shots)
    assert layout.prompt(shots, "<s> e <EOL>") == (
        f"Continue writing the code.\n{LEAD}Code:\n<s> a <EOL>b\n\nCode:\n<s> c <EOL>d\n\n"
        "Code:\n<s> e <EOL>"
    )
    assert layout_of("plain", named("trace_py150"), shots).prompt(shots[:1], "e") == (
        "<s> a <EOL>b\n\ne"
    )


def test_what_ends_an_answer_is_in_no_training_answer() -> None:
    task, shots = task_of(["A"]), [example("P", "one\ntwo")]
    layout = layout_of("trace", task, shots)
    assert ends_of("trace", task, layout, shots) == ["\n\n"]
    assert ends_of("trace", task, layout, [example("P", "one\n\ntwo")]) == []
    assert ends_of("trace", named("trace_numglue_cm"), layout, [example("P", "7")]) == ["\n"]
    assert ends_of("plain", named("trace_numglue_cm"), layout, [example("P", "7")]) == ["\n\n"]
    assert [name for name in HABITS if goes_without("trace", name)] == ["trace_meetingbank"]
    assert not goes_without("plain", "trace_meetingbank")


CHOICE = {"output_type": "multiple_choice", "doc_to_choice": WORDS, "target_delimiter": " "}


@pytest.mark.parametrize(
    "config",
    [
        {},
        CHOICE | {"description": "Say where.\n\n"},
        {"gen_prefix": "So:", "fewshot_delimiter": "\n---\n"},
    ],
)
def test_plain_is_what_lm_evaluation_harness_makes(config: dict[str, Any]) -> None:
    """With the same documents as examples, of generated answers and of choices."""
    task = task_of(WORDS, **config)
    rows = training_examples(task, 3, seed=1)
    docs = task.training_docs()
    task.sampler = SamplerOf([docs[one.doc_id] for one in rows])
    layout = layout_of("plain", task, rows)
    for doc in list(task.eval_docs)[:3]:
        expected = task.fewshot_context(doc, 3, gen_prefix=task.doc_to_prefix(doc))
        assert layout.prompt(rows, own_prompt(task, doc)) == expected


class SamplerOf:
    """Gives lm-eval these documents."""

    def __init__(self, docs: list[Any]) -> None:
        self.docs = docs

    def sample(self, n: int, **_: Any) -> list[Any]:
        return self.docs[:n]


ROWS = [example(f"p{i}", "ABC"[i % 3 if i < 24 else 0]) for i in range(60)]


def test_examples_depend_on_the_seed_and_fewer_are_the_first_of_more() -> None:
    six = choose(ROWS, 6, 1, set())
    assert six == choose(ROWS, 6, 1, set()) != choose(ROWS, 6, 2, set())
    sizes = [choose(ROWS, shots, 1, set()) for shots in range(1, 7)]
    assert all(more[: len(fewer)] == fewer for fewer, more in pairwise(sizes))
    assert len({one.prompt for one in six}) == 6
    drawn = {one.prompt for seed in range(40) for one in choose(ROWS, 6, seed, set())}
    assert len(drawn) > 50, "every row can be drawn"


def test_no_example_is_a_question_that_is_scored() -> None:
    scored = {f"p{i}" for i in range(55)}
    for seed in range(9):
        assert {one.prompt for one in choose(ROWS, 9, seed, scored)} == {
            f"p{i}" for i in range(55, 60)
        }


def test_long_rows_are_passed_over_while_others_suffice() -> None:
    few = {"p3", "p7", "p30", "p31"}

    def short(one: Example) -> bool:
        return one.prompt in few

    found = [one.prompt for one in choose(ROWS, 6, 1, {"p31"}, short=short)]
    assert {"p3", "p7", "p30"} == set(found[:3]) and len(set(found)) == 6
    assert (
        choose(ROWS, 2, 1, set(), short=short)
        == [one for one in choose(ROWS, 60, 1, set()) if short(one)][:2]
    )
    labelled = choose(ROWS, 3, 1, set(), "ABC", short)  # B and C have none but p7
    assert labelled[0].prompt in few and len({one.prompt for one in labelled}) == 3


def test_every_label_comes_as_often_as_the_others_while_there_are_some() -> None:
    for seed in range(9):
        even = [one.answer for one in choose(ROWS, 6, seed, set(), "ABC")]
        assert sorted(even) == sorted("AABBCC")
    few = [row for row in ROWS if row.answer != "C"]
    answers = [one.answer for one in choose(few, 6, 1, set(), "ABC")]
    assert len(answers) == 6 and min(map(answers.count, "AB")) >= 2
