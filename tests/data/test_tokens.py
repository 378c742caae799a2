"""Prompts, pairs and examples as tokens, against lm-eval's own encoding and TRACE's collator."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cl_bench.data.examples import Example
from cl_bench.data.learned_turns import token_spans
from cl_bench.data.tokens import (
    encode_examples,
    encode_pairs,
    encode_prompts,
    pad_id,
    padding,
)
from cl_bench.errors import UserError
from tests.helpers.tiny import byte_tokenizer, tiny_model

PLAIN, WITH_BOS = byte_tokenizer(), byte_tokenizer(bos=True)
BOS, EOS = 1, 2
TOKENIZERS = st.sampled_from([PLAIN, WITH_BOS])
TEXT = st.text(alphabet="ab é文:\n", max_size=12)
FOMC = "What is the stance? Choose one from A, B and C.\nText:\n{}\nStance:"
"""The form of TRACE's prompts: an instruction, what names the body, the body, a closing cue."""


def ids_of(text: str) -> list[int]:
    return PLAIN(text, add_special_tokens=False)["input_ids"]


def example(prompt: str, answer: str, kind: str = "generate") -> Example:
    return Example(prompt, answer, 0, "t", kind)


def encode_one(prompt: str, answer: str, limits=(1000, 1000), mode="left", tokenizer=PLAIN, **kind):
    return encode_examples([example(prompt, answer, **kind)], tokenizer, *limits, mode)[0]


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level with one merge: the colon that ends a prompt and the A of an answer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"</s>": 0} | {char: i + 1 for i, char in enumerate(alphabet)} | {":A": 257}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[(":", "A")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "bos"])
def harness(request) -> HFLM:
    return HFLM(pretrained=tiny_model(), tokenizer=byte_tokenizer(bos=request.param))


@pytest.mark.parametrize(
    "prompt", ["Question:\nAnswer:", "ä\n", " a ", "<s>already begun", "x</s>y", "态度："]
)
def test_prompts_are_what_lm_eval_makes_of_them(harness, prompt):
    (ours,) = encode_prompts(harness.tokenizer, [prompt], 1000, "left")
    assert ours.ids == harness.tok_encode(prompt)
    batched, _ = harness.tok_batch_encode([prompt])
    assert ours.ids == batched[0].tolist()


@pytest.mark.parametrize(
    ("context", "continuation"),
    [
        ("Q: a\nAnswer:", " yes"),
        ("Answer: ", "no"),
        ("Say:\n\n", "x"),
        ("<s>Q", " a"),
        ("é ", "文"),
    ],
)
def test_pairs_are_what_lm_eval_makes_of_them(harness, context, continuation):
    ((prompt, answer),) = encode_pairs(harness.tokenizer, [(context, continuation)], 1000, "left")
    assert (prompt.ids, answer) == harness._encode_pair(context, continuation)


def test_a_pair_whose_border_merges_is_cut_where_lm_eval_cuts_it():
    tokenizer = merging_tokenizer()
    lm = HFLM(pretrained=tiny_model(), tokenizer=tokenizer)
    ((prompt, answer),) = encode_pairs(tokenizer, [("is:", "AB")], 1000, "left")
    assert (prompt.ids, answer) == lm._encode_pair("is:", "AB")
    assert len(prompt.ids) == 3
    assert tokenizer.decode(answer) == "B"


def test_an_empty_context_is_the_prefix_token_as_in_lm_eval():
    pairs = [("", "ab"), ("", "<s>ab"), ("c", "d"), ("", "x")]
    encoded = encode_pairs(PLAIN, pairs, 10, "left")
    assert [(prompt.ids, answer) for prompt, answer in encoded] == [
        ([BOS], ids_of("ab")),
        ([BOS], ids_of("ab")),
        (ids_of("c"), ids_of("d")),
        ([BOS], ids_of("x")),
    ]


def test_an_empty_prompt_is_the_prefix_token():
    assert encode_prompts(PLAIN, ["", "a"], 10, "left")[0].ids == [BOS]
    assert encode_prompts(WITH_BOS, [""], 10, "left")[0].ids == [BOS]
    assert encode_one("", "a").input_ids == [BOS, *ids_of("a"), EOS]


def test_texts_that_repeat_keep_their_places():
    texts = ["a", "b", "a", "<s>a", "b"]
    assert [p.ids for p in encode_prompts(PLAIN, texts, 9, "left")] == [ids_of(t) for t in texts]


@settings(max_examples=60, deadline=None)
@given(TOKENIZERS, TEXT, TEXT, st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_the_answer_is_never_cut_by_the_prompt(tokenizer, prompt, answer, most, cap, keep):
    mode = "keep_instruction" if keep else "left"
    encoded = encode_one(prompt, answer, (most, cap), mode, tokenizer)
    (seen,) = encode_prompts(tokenizer, [prompt], most, mode)
    target = ids_of(answer)
    assert encoded.input_ids[: encoded.prompt_length] == seen.ids
    assert 1 <= encoded.prompt_length <= most
    expected = [*target, EOS] if len(target) <= cap else target[:cap]
    assert encoded.input_ids[encoded.prompt_length :] == expected
    assert encoded.answer_tokens == len(expected)
    assert encoded.truncated_answer_tokens == max(0, len(target) - cap)
    whole = len(encode_prompts(tokenizer, [prompt], 1000, "left")[0].ids)
    assert encoded.truncated_prompt_tokens == seen.truncated == max(0, whole - most)


@settings(max_examples=60, deadline=None)
@given(TOKENIZERS, TEXT, st.integers(1, 20))
def test_left_keeps_the_end_of_the_prompt(tokenizer, prompt, most):
    whole = encode_prompts(tokenizer, [prompt], 1000, "left")[0].ids
    assert encode_prompts(tokenizer, [prompt], most, "left")[0].ids == whole[-most:]


@pytest.mark.parametrize("tokenizer", [PLAIN, WITH_BOS], ids=["plain", "bos"])
def test_keep_instruction_cuts_the_middle(tokenizer):
    head, cue = FOMC.split("{}")
    body = "0123456789 " * 40
    (cut,) = encode_prompts(tokenizer, [FOMC.format(body)], 150, "keep_instruction")
    text = tokenizer.decode(cut.ids, skip_special_tokens=True)
    assert len(cut.ids) == 150
    assert text.startswith(head)
    assert text.endswith(cue)
    assert body.endswith(text[len(head) : -len(cue)])
    assert (cut.ids[0] == BOS) == (tokenizer is WITH_BOS)


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="ab é文", min_size=100, max_size=200), st.integers(70, 100))
def test_keep_instruction_keeps_first_line_and_cue(body, most):
    (cut,) = encode_prompts(PLAIN, [FOMC.format(body)], most, "keep_instruction")
    assert len(cut.ids) == most
    assert PLAIN.decode(cut.ids).startswith("What is the stance? Choose one from A, B and C.\n")
    assert PLAIN.decode(cut.ids).endswith("\nStance:")


@pytest.mark.parametrize(
    "prompt",
    [
        "import os <EOL> " * 20,
        "A passage longer than the question. " * 9 + "\nQuestion: what?\nAnswer:",
        "An instruction and cue that do not fit together.\n" + "x" * 99 + "\n" + "y" * 90 + ":",
    ],
    ids=["one line", "body first", "no room"],
)
def test_keep_instruction_is_left_where_there_is_none_to_keep(prompt):
    left = encode_prompts(PLAIN, [prompt], 100, "left")
    assert encode_prompts(PLAIN, [prompt], 100, "keep_instruction") == left


def test_an_instruction_across_a_token_border_is_kept_whole():
    tokenizer = merging_tokenizer()
    prompt = "Say:A\nWhat:\n" + "b" * 50 + "\nIt is:"
    (cut,) = encode_prompts(tokenizer, [prompt], 30, "keep_instruction")
    assert tokenizer.decode(cut.ids).startswith("Say:A\nWhat:\n")
    assert tokenizer.decode(cut.ids).endswith("b\nIt is:")


class WithoutOffsets:
    """A tokenizer of the kind that cannot say where a token stood."""

    is_fast = False
    bos_token_id, eos_token_id = BOS, EOS

    def __call__(self, texts, **options):
        assert "return_offsets_mapping" not in options
        return PLAIN(texts, **options)

    def decode(self, ids):
        return PLAIN.decode(ids)


def test_keep_instruction_needs_no_offsets():
    prompt = FOMC.format("words " * 40)
    assert encode_prompts(WithoutOffsets(), [prompt], 120, "keep_instruction") == encode_prompts(
        PLAIN, [prompt], 120, "keep_instruction"
    )


def test_spans_of_a_conversation_need_no_offsets():
    text, spans = "q: one. r: two.", [(3, 7), (11, 15)]
    found = [token_spans(tokenizer, text, spans) for tokenizer in (PLAIN, WithoutOffsets())]
    assert found[0] == found[1]
    ids = PLAIN(text, add_special_tokens=False)["input_ids"]
    assert [PLAIN.decode(ids[a:b]) for a, b in found[0]] == ["one.", "two."]


def test_kinds_mix_and_keep_their_order():
    mixed = [
        example("a:", "1"),
        example("b: ", "2", "choice"),
        example("c:", "3"),
        example("", "4", "choice"),
    ]
    encoded = encode_examples(mixed, PLAIN, 50, 50, "left")
    assert [item.example for item in encoded] == [0, 1, 2, 3]
    texts = [PLAIN.decode(item.input_ids[: item.prompt_length]) for item in encoded]
    assert texts == ["a:", "b:", "c:", "<s>"]
    answers = [PLAIN.decode(item.input_ids[item.prompt_length :]) for item in encoded]
    assert answers == ["1</s>", " 2</s>", "3</s>", "4</s>"]


def trace_collator(tokenizer, prompt: str, answer: str, room: int) -> tuple[list[int], int]:
    """TRACE's training sequence and number of labels, step by step as reference/trace.md has it."""
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    while len(ids) > room:
        del ids[0]
    if len(ids) < room:
        ids.append(tokenizer.eos_token_id)
    if len(ids) < room:
        ids.insert(0, bos)
    alone = tokenizer(answer, add_special_tokens=False)["input_ids"]
    while len(alone) > room:
        del alone[0]
    if len(alone) < room:
        alone.append(tokenizer.eos_token_id)
    return ids, min(len(alone), len(ids))


@settings(max_examples=60, deadline=None)
@given(TOKENIZERS, TEXT, TEXT, st.integers(1, 12), st.integers(1, 12))
def test_trace_mode_is_its_collator(tokenizer, prompt, answer, most, cap):
    encoded = encode_one(prompt, answer, (most, cap), "trace", tokenizer)
    ids, labels = trace_collator(tokenizer, prompt, answer, most + cap)
    assert encoded.input_ids == ids
    assert encoded.input_ids[encoded.prompt_length :] == ids[len(ids) - labels :]
    cut = encoded.truncated_prompt_tokens + encoded.truncated_answer_tokens
    assert cut == max(0, len(ids_of(prompt + answer)) - most - cap)


def test_trace_mode_keeps_the_quirks():
    tokenizer = merging_tokenizer()
    colon, b = tokenizer(":B", add_special_tokens=False)["input_ids"]
    merged = encode_one("x:", "AB", (20, 20), "trace", tokenizer)
    assert merged.input_ids[0] == merged.input_ids[-1] == tokenizer.eos_token_id
    assert merged.input_ids[merged.prompt_length :] == [257, b, 0], "a prompt's colon is trained"
    cut = encode_one("x" * 30 + ":", "B", (5, 5), "trace", tokenizer)
    assert len(cut) == 10
    assert cut.input_ids[cut.prompt_length :] == [colon, b], "no EOS, one prompt token trained"
    assert (cut.truncated_prompt_tokens, cut.truncated_answer_tokens) == (22, 0)
    assert padding("trace") == {"side": "left", "multiple_of": 8}
    assert padding("left") == padding("keep_instruction") == {}


def test_trace_mode_prompts_get_bos_if_there_is_room():
    prompts = encode_prompts(WITH_BOS, ["abc", "abcd", "abcdef"], 4, "trace")
    assert [p.ids for p in prompts] == [[BOS, *ids_of("abc")], ids_of("abcd"), ids_of("cdef")]
    assert [p.truncated for p in prompts] == [0, 0, 2]


def test_a_tokenizer_without_eos_is_refused():
    tokenizer = merging_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no EOS token"):
        encode_one("a", "b", tokenizer=tokenizer)


def test_pads_are_pad_else_eos():
    assert pad_id(PLAIN) == 0
    tokenizer = merging_tokenizer()
    assert pad_id(tokenizer) == tokenizer.eos_token_id
    tokenizer.eos_token = None
    assert pad_id(tokenizer) == 0
