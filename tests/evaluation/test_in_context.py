"""Examples in front of prompts: what fits, what is recorded, where answers end."""

from __future__ import annotations

from typing import Any

import pytest

from cl_bench.config.schema import InContext, TrainConfig
from cl_bench.data.examples import own_prompt, training_examples
from cl_bench.evaluation.in_context import WorkedExamples, worked_examples
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from cl_bench.evaluation.units import Unit
from tests.helpers.gold_tasks import task_of
from tests.helpers.tiny import byte_tokenizer, tiny_model

TRAIN = [f"answer {i}" for i in range(9)]
CUT = TrainConfig(max_prompt_tokens=8, max_answer_tokens=5)


def worked(room: int | None = None, shots: int = 3, **config: Any) -> WorkedExamples:
    task = task_of(["x", "y"], TRAIN, **config)
    options = InContext(shots=shots, max_prompt_tokens=room)
    rows = training_examples(task, None, 1)
    documents = range(len(task.eval_docs))
    return worked_examples(task, rows, documents, options, 7, byte_tokenizer(), CUT, 2048)


def test_examples_are_left_out_from_the_end_until_the_prompt_fits_and_nothing_is_cut() -> None:
    whole = worked(doc_to_text="Q: {{q}}")
    question = "Q: a question that is rather long"
    texts = [whole.layout.prompt(whole.examples[:count], question) for count in range(4)]
    for count in range(1, 4):
        for room in (len(texts[count]), len(texts[count]) + 1):
            some = worked(room, doc_to_text="Q: {{q}}")
            assert some.examples == whole.examples
            assert some.prompt(question) == texts[count]
            assert byte_tokenizer().decode(some.encode([texts[count]])[0]) == texts[count]
    none = worked(len(texts[1]) - 1, doc_to_text="Q: {{q}}")
    assert none.prompt(question) == question
    (ids,) = none.encode([question])
    assert byte_tokenizer().decode(ids) == question[-8:], "as it is cut without examples"
    assert whole.room == 2048 - 5


def test_examples_are_those_that_fit_their_share_of_the_room() -> None:
    rows = [*TRAIN, *(f"a long answer {'x' * 50} {i}" for i in range(9))]
    task = task_of(["x", "y"], rows)
    examples, documents = training_examples(task, None, 1), range(len(task.eval_docs))
    for seed in range(6):
        for room, fitting in ((6 * 50, 3), (6 * 150, 18)):
            options = InContext(shots=3, max_prompt_tokens=room)
            found = worked_examples(
                task, examples, documents, options, seed, byte_tokenizer(), CUT, 2048
            )
            sizes = [len(one.prompt + one.answer) + 2 for one in found.examples]
            assert len(sizes) == 3 and (fitting == 18 or max(sizes) <= room / 6)
            assert found.prompt("Where?") == found.layout.prompt(found.examples, "Where?")


def test_a_document_is_asked_behind_its_examples_and_known_by_its_question() -> None:
    """The engine is given what a plain loop over examples writes down, token by token."""
    found = worked()
    task = found.task
    unit = Unit("trace", "compass", {"compass": task}, {"compass": [0, 3]}, CUT, found)
    lm = SharedPrefixLM(tiny_model(), byte_tokenizer())
    seen: list[list[int]] = []

    def encode(prompts: list[str]) -> list[list[int]]:
        ids = found.encode(prompts)
        seen.extend(ids)
        return ids

    lm.encode_prompts = encode
    before = dict(task.config.generation_kwargs)
    (result,) = unit.answered(lm).values()
    lead = (
        "We will give you several examples and you should follow them to accomplish the task.\n"
        " Examples:\n"
    )
    for one in found.examples:
        lead += f"{one.prompt}{one.answer}\n\n"
    expected = [lead + own_prompt(task, task.eval_docs[i]) for i in (0, 3)]
    assert [byte_tokenizer().decode(ids) for ids in seen] == expected
    plain = Unit("trace", "compass", {"compass": task}, {"compass": [0, 3]}, CUT)
    lm.encode_prompts = None
    (other,) = plain.answered(lm).values()
    for record, without in zip(result.records, other.records, strict=True):
        assert record["shots"] == 3 and "shots" not in without
        assert record["prompt_hash"] == without["prompt_hash"]
    assert task.config.generation_kwargs == before
    assert found.summary(result.records) == {
        **{"asked": 3, "mean": 3.0, "fewest": 3, "documents_with_fewer": 0},
        "examples": [one.doc_id for one in found.examples],
        "max_prompt_tokens": 2043,
    }
    assert plain.depends_on() != unit.depends_on()


def test_an_answer_ends_before_the_next_example() -> None:
    found = worked()
    with found.in_front():
        assert found.task.config.generation_kwargs["until"] == ["\n", "\n\n"]
    label = task_of(["A", "B"], ["A", "B", "C"] * 4, task="trace_fomc")
    rows = training_examples(label, None, 1)
    options, documents = InContext(shots=6), range(2)
    tokenizer = byte_tokenizer()
    ended = worked_examples(label, rows, documents, options, 7, tokenizer, CUT, 2048)
    assert ended.generation({"until": []}) == {"until": [], "max_gen_toks": 1}
    assert sorted(one.answer for one in ended.examples) == sorted("AABBCC")
    uneven = InContext(shots=6, balanced=False, layout="plain")
    free = worked_examples(label, rows, documents, uneven, 7, tokenizer, CUT, 2048)
    assert free.generation({"until": []}) == {"until": ["\n\n"]}


def test_a_choice_is_asked_behind_the_examples_too() -> None:
    kind = {"output_type": "multiple_choice", "doc_to_choice": ["x", "y", *TRAIN]}
    found = worked(**kind, generation_kwargs=None, target_delimiter=" ")
    unit = Unit("trace", "compass", {"compass": found.task}, {"compass": [0]}, CUT, found)
    lm = SharedPrefixLM(tiny_model(), byte_tokenizer())
    lm.encode_prompts = found.encode
    (result,) = unit.answered(lm).values()
    context = result.samples[0]["arguments"][0][0]
    assert context.count("answer ") == 3 and result.records[0]["shots"] == 3
    assert "answer" in found.examples[0].answer and f"?{found.examples[0].answer}\n\n" in context


@pytest.mark.parametrize("truncation", ["left", "keep_instruction", "trace"])
def test_no_way_of_truncating_cuts_a_prompt_with_examples(truncation: str) -> None:
    found = worked()
    train = CUT.model_copy(update={"truncation": truncation})
    task = found.task
    again = worked_examples(
        task,
        training_examples(task, None, 1),
        [0],
        InContext(shots=2),
        7,
        byte_tokenizer(),
        train,
        999,
    )
    text = again.prompt("Where 0?")
    (ids,) = again.encode([text])
    assert byte_tokenizer().decode(ids, skip_special_tokens=True) == text
