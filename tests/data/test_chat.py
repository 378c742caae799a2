"""Tasks in chat form, against what transformers and lm-eval make of the same conversations."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from cl_bench.data.chat import Chat, Frame, ask_in, opened_chat
from cl_bench.data.examples import Example, example_of, in_form
from cl_bench.data.loading import load_tasks
from cl_bench.data.tokens import encode_examples, encode_prompts
from tests.helpers.templates import CHATML, LLAMA2, MARKED, chatting
from tests.helpers.tiny import tiny_model

FRAMES = {
    "chatml": (
        *(CHATML, False, "Be brief."),
        Frame(
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n",
            "<|im_end|>\n<|im_start|>assistant\n",
            "<|im_end|>",
        ),
    ),
    "llama2": (LLAMA2, True, None, Frame("<s>[INST] ", " [/INST]", "</s>")),
    "marked": (MARKED, True, None, Frame("[user]\n", "[assistant]\n", "\n<|im_end|>")),
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
