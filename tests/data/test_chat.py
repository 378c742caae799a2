"""Tasks in chat form, against what transformers and lm-eval make of the same conversations."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from cl_bench.data.batches import IGNORE, collate
from cl_bench.data.chat import Chat, Frame, ask_in, opened_chat
from cl_bench.data.examples import Example, example_of, in_form
from cl_bench.data.learned_turns import learned_before
from cl_bench.data.loading import load_tasks
from cl_bench.data.tokens import Encoded, encode_examples, encode_prompts
from cl_bench.data.truncation import Truncation
from tests.helpers.templates import CHATML, LLAMA2, MARKED, REASONING, chatting
from tests.helpers.tiny import tiny_model

FRAMES = {
    "chatml": (
        *(CHATML, False, "Be brief."),
        Frame(
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n",
            "<|im_end|>\n<|im_start|>assistant\n",
            "<|im_end|>",
            "<|im_end|>\n<|im_start|>user\n",
        ),
    ),
    "llama2": (LLAMA2, True, None, Frame("<s>[INST] ", " [/INST]", "</s>", "</s><s>[INST] ")),
    "marked": (
        *(MARKED, True, None),
        Frame("[user]\n", "[assistant]\n", "\n<|im_end|>", "\n<|im_end|>[user]\n"),
    ),
}


def opened(template: str, bos: bool = False, system: str | None = None) -> Chat:
    chat, faults = opened_chat("auto", system, True, chatting(template, bos))
    assert chat is not None and not faults
    return chat


@pytest.mark.parametrize("name", FRAMES)
def test_what_stands_around_a_question(name: str) -> None:
    template, bos, system, frame = FRAMES[name]
    assert opened(template, bos, system).frame == frame


@pytest.mark.parametrize("name", FRAMES)
def test_training_tokens_are_those_of_apply_chat_template(name: str) -> None:
    """One BOS, and labels on the assistant's text and the token that ends its turn alone."""
    template, bos, system, frame = FRAMES[name]
    chat = opened(template, bos, system)
    answer = " fine" if name == "llama2" else "fine"  # its template puts a blank in front
    example = in_form(Example("How are you?", answer, 0, "t", "generate"), chat)
    (tokens,) = encode_examples([example], chat.tokenizer, 1000, 1000, "left")
    turns = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "fine"}]
    if system:
        turns.insert(0, {"role": "system", "content": system})
    whole = chat.tokenizer.apply_chat_template(turns, return_dict=False)
    asked = chat.tokenizer.apply_chat_template(
        turns[:-1], add_generation_prompt=True, return_dict=False
    )
    assert tokens.input_ids == whole[: len(tokens)] and tokens.prompt_length == len(asked)
    labels = chat.tokenizer.decode(tokens.input_ids[tokens.prompt_length :])
    assert labels == answer + frame.end
    assert chat.tokenizer.decode(whole[len(tokens) :]).strip() == ""
    assert tokens.input_ids.count(1) == (name == "llama2"), "BOS"
    if name == "marked":
        masks = chat.tokenizer.apply_chat_template(
            turns, return_dict=True, return_assistant_tokens_mask=True
        )["assistant_masks"]
        learned = [0] * tokens.prompt_length + [1] * (len(tokens) - tokens.prompt_length)
        assert masks == learned + [0] * (len(whole) - len(tokens))


@pytest.mark.parametrize("mode", ["left", "keep_instruction"])
@pytest.mark.parametrize("name", FRAMES)
def test_a_long_question_is_cut_and_its_frame_is_not(name: str, mode: Any) -> None:
    template, bos, system, frame = FRAMES[name]
    chat = opened(template, bos, system)
    question = f"Classify.\n{'x' * 300}\nAnswer:"
    least = len(chat.tokenizer(frame.head + frame.tail, add_special_tokens=False)["input_ids"])
    for room in (20, 60):
        (prompt,) = encode_prompts(
            chat.tokenizer, [chat.ask(question)], least + room, mode, chat.frame
        )
        text = chat.tokenizer.decode(prompt.ids)
        assert text.startswith(frame.head) and text.endswith(frame.tail)
        kept = text.removeprefix(frame.head).removesuffix(frame.tail)
        assert len(kept) == room and kept.endswith("\nAnswer:")
        assert kept.startswith("Classify.\n") == (mode == "keep_instruction")
    (tiny,) = encode_prompts(chat.tokenizer, [chat.ask(question)], 5, mode, chat.frame)
    assert len(tiny.ids) == 5


@pytest.mark.parametrize("multiturn", [True, False])
def test_prompts_are_those_of_lm_eval(multiturn: bool) -> None:
    """With description, system text and worked examples, for choices and for generation."""
    tokenizer = chatting(CHATML)
    chat, _ = opened_chat("auto", "Be brief.", multiturn, tokenizer)
    lm = HFLM(tiny_model(262), tokenizer=tokenizer)
    theirs, ours = (load_tasks(["mini_piqa", "mini_fomc"]) for _ in range(2))
    assert chat is not None
    ask_in(chat, ours)
    for name, task in ours.items():
        for each in (task, theirs[name]):
            each.config.description = "Answer."
            each.set_fewshot_seed(1)
        doc = task.eval_docs[0]
        shots = 2 if name == "mini_piqa" else 0
        given = {
            "num_fewshot": shots,
            "system_instruction": "Be brief.",
            "fewshot_as_multiturn": multiturn,
        }
        wanted = theirs[name].fewshot_context(
            doc, apply_chat_template=True, chat_template=lm.apply_chat_template, **given
        )
        found = task.fewshot_context(doc, num_fewshot=shots)
        assert (
            found == wanted
            and "Be brief." in found
            and found.count("assistant") == (1 + shots if multiturn else 1)
        )
        requests = [
            each.construct_requests(doc=doc, ctx=wanted, metadata=(name, 0, 1), **more)
            for each, more in (
                (task, {}),
                (theirs[name], {"apply_chat_template": True, "chat_template": None}),
            )
        ]
        if name == "mini_piqa":
            assert [one.args for one in requests[0]] == [one.args for one in requests[1]]
        else:
            assert requests[0].args[1]["until"][-1] == "<|im_end|>"


def test_a_choice_is_learned_as_it_is_scored() -> None:
    chat = opened(CHATML)
    (task,) = load_tasks(["mini_piqa"]).values()
    ask_in(chat, {"mini_piqa": task})
    example = example_of(task, task.eval_docs[0], 0)
    assert example.kind == "choice" and not example.answer[:1].isspace()
    (tokens,) = encode_examples([example], chat.tokenizer, 1000, 1000, "left")
    end = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokens.input_ids[-1] == end and tokens.input_ids.count(end) == 2


def test_conversations_keep_their_turns() -> None:
    chat = opened(CHATML, system="Be brief.")
    (task,) = load_tasks(["mini_fomc"]).values()
    ask_in(chat, {"mini_fomc": task})
    roles = ("user", "assistant", "user", "assistant")
    turns = [{"role": role, "content": f"text {i}"} for i, role in enumerate(roles)]
    own = [{"role": "system", "content": "Its own."}, *turns]
    for given, system in ((turns, "Be brief."), (own, "Its own.")):
        asked = task.fewshot_context({"turns": given}, num_fewshot=0)
        begin = [{"role": "system", "content": system}, *turns[:-1]]
        assert asked == chat.tokenizer.apply_chat_template(
            begin, tokenize=False, add_generation_prompt=True
        )


def conversation(*answers: str, system: str | None = None) -> list[dict[str, str]]:
    """Questions of the user with these answers."""
    first = [] if system is None else [{"role": "system", "content": system}]
    pairs = (
        [{"role": "user", "content": f"q{i}?"}, {"role": "assistant", "content": answer}]
        for i, answer in enumerate(answers)
    )
    return [*first, *(turn for pair in pairs for turn in pair)]


def trained(
    chat: Chat, turns: list[dict[str, str]], most: int = 1000, mode: Truncation = "left"
) -> Encoded:
    """A row with these turns, as tokens."""
    prompt = chat.render_all(chat.asked(turns))
    learned = learned_before(chat, turns, prompt)
    answer = turns[-1]["content"]
    example = Example(prompt, answer, 0, "t", "generate", chat.frame, learned)
    return encode_examples([example], chat.tokenizer, most, 1000, mode)[0]


def labels(chat: Chat, item: Encoded) -> list[str]:
    """The stretches of tokens that are learned, as text; from the tensors that training sees."""
    batch = collate([item], 0)
    (row,) = batch["labels"].tolist()
    assert batch["answer_tokens"] == item.answer_tokens == sum(one != IGNORE for one in row)
    assert all(one in (IGNORE, item.input_ids[i]) for i, one in enumerate(row))
    runs = groupby(row, key=lambda one: one != IGNORE)
    return [chat.tokenizer.decode(list(run)) for kept, run in runs if kept]


@pytest.mark.parametrize("name", FRAMES)
def test_every_answer_of_a_conversation_is_learned(name: str) -> None:
    """With the tokens of `apply_chat_template`, and its mask where the template has marks."""
    template, bos, system, frame = FRAMES[name]
    chat = opened(template, bos, system)
    turns = conversation("one", "two three", "four")
    item = trained(chat, turns)
    blank = " " if name == "llama2" else ""  # its template puts one in front
    said = [blank + "one", blank + "two three", "four"]
    assert labels(chat, item) == [text + frame.end for text in said]
    whole = chat.tokenizer.apply_chat_template(
        chat.first + turns,
        return_dict=True,
        return_assistant_tokens_mask=name == "marked",
    )
    assert item.input_ids.count(1) == (3 if name == "llama2" else 0), "one BOS a turn is its form"
    if name == "llama2":
        return
    assert item.input_ids == whole["input_ids"][: len(item)]
    if name == "marked":
        (row,) = collate([item], 0)["labels"].tolist()
        assert [int(one != IGNORE) for one in row] == whole["assistant_masks"][: len(item)]


def test_a_turn_that_is_rendered_otherwise_later_is_not_learned() -> None:
    chat = opened(REASONING)
    item = trained(chat, conversation("<think>a</think>one", "two", "<think>b</think>three"))
    assert labels(chat, item) == ["two<|im_end|>", "<think>b</think>three<|im_end|>"]
    spaced = trained(opened(LLAMA2, True), conversation(" one ", "two"))
    assert labels(chat, spaced) == [" one</s>", "two</s>"]


def test_an_answer_to_nobody_is_no_answer() -> None:
    turns = [{"role": "assistant", "content": "Hello."}, *conversation("one", "two")]
    chat = opened(CHATML)
    assert labels(chat, trained(chat, turns)) == ["one<|im_end|>", "two<|im_end|>"]


@pytest.mark.parametrize("system", [None, "Its own."])
@pytest.mark.parametrize("mode", ["left", "keep_instruction"])
@pytest.mark.parametrize("name", ["chatml", "marked"])
def test_a_long_conversation_loses_its_oldest_turns(name: str, mode: Any, system: Any) -> None:
    """Whole ones, in training and in scoring alike; what stands before the first stays."""
    template, bos, first, frame = FRAMES[name]
    chat = opened(template, bos, first)
    turns = conversation("a" * 40, "b" * 40, "c" * 40, "d", system=system)
    head = chat.render_all(chat.asked(turns)).partition("q0?")[0]
    whole = len(trained(chat, turns).input_ids) - len(frame.end) - 1
    for most, kept in ((whole - 10, "bcd"), (whole - 90, "cd")):
        item = trained(chat, turns, most, mode)
        asked = chat.render_all(chat.asked(turns))
        (prompt,) = encode_prompts(chat.tokenizer, [asked], most, mode, chat.frame)
        assert prompt.ids == item.input_ids[: item.prompt_length] and len(prompt.ids) <= most
        assert [text[0] for text in labels(chat, item)] == list(kept)
        assert item.lost_turns == 4 - len(kept) and item.truncated_prompt_tokens
        text = chat.tokenizer.decode(prompt.ids)
        assert text.startswith(f"{head}q{4 - len(kept)}?")
    last = trained(chat, [*turns[:-2], {"role": "user", "content": "x" * 300}, turns[-1]], 120)
    text = chat.tokenizer.decode(last.input_ids)
    assert text.startswith(f"{head}xxx") and last.prompt_length == 120 and last.lost_turns == 3


def test_what_cannot_be_asked_is_refused() -> None:
    def faults(template: str, tokenizer: Any, system: str | None = None) -> str:
        chat, found = opened_chat(template, system, True, tokenizer)
        assert chat is None
        return " ".join(found)

    assert "allows no system's turn" in faults("auto", chatting(LLAMA2), "Be brief.")
    assert "needs model.chat_template" in faults("off", None, "Be brief.")
    assert "cannot be rendered" in faults("auto", chatting("{{ raise_exception('no') }}"))
    assert "does not show the user's text" in faults("auto", chatting("{{ bos_token }}"))
    assert "does not show the assistant's" in faults(
        "auto", chatting("{{ messages[0]['content'] }}: ")
    )
    assert opened_chat("auto", None, True, chatting(CHATML))[0] is not None
    plain = chatting(CHATML)
    plain.chat_template = None
    assert opened_chat("auto", None, True, plain) == (None, [])
