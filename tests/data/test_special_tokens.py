"""Tokenizers that append an EOS, a second BOS, and special tokens that texts spell out."""

from __future__ import annotations

import pytest
import torch
from lm_eval.api.instance import Instance

from cl_bench.data.examples import Example
from cl_bench.data.special_tokens import Added, SpecialTokens, added_tokens, named
from cl_bench.data.tokens import encode_examples, encode_pairs, encode_prompts
from cl_bench.evaluation.engines.hflm import TruncatingHFLM
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from tests.helpers.tiny import appending, byte_tokenizer, tiny_model

PLAIN, WITH_BOS = byte_tokenizer(), byte_tokenizer(bos=True)
PAD, BOS, EOS = 0, 1, 2
TEMPLATES = {"<s> $A </s>": [BOS], "$A </s>": [], "<s> $A </s> <pad>": [BOS], "<s> $A <pad>": [BOS]}
TEXTS = ["Q:", " a </s>", "<s>begun", "é\n", ""]
PAIRS = [
    ("Q: who?\nA:", " she"),
    ("Say: ", "no"),
    ("<s>Q", " a"),
    ("", "alone"),
    ("x</s>", "y</s>"),
]


def ids_of(text: str) -> list[int]:
    return PLAIN(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_nothing_stands_between_prompt_and_answer(template):
    """The tokens of a tokenizer that adds the same in front and nothing behind."""
    tokenizer = appending(template)
    sound = WITH_BOS if TEMPLATES[template] else PLAIN
    examples = [
        Example(prompt, answer, 0, "t", kind)
        for kind in ("generate", "choice")
        for prompt, answer in PAIRS
    ]
    for mode in ("left", "keep_instruction", "trace"):
        ours = encode_examples(examples, tokenizer, 6, 9, mode)
        assert ours == encode_examples(examples, sound, 6, 9, mode)
        assert encode_prompts(tokenizer, TEXTS, 50, mode) == encode_prompts(sound, TEXTS, 50, mode)
    assert encode_pairs(tokenizer, PAIRS, 50, "left") == encode_pairs(sound, PAIRS, 50, "left")
    assert encode_examples(examples[:1], tokenizer, 50, 9, "left")[0].input_ids == [
        *TEMPLATES[template],
        *ids_of("Q: who?\nA: she"),
        EOS,
    ]


def test_what_is_added_is_seen():
    assert added_tokens(PLAIN) == Added()
    assert added_tokens(WITH_BOS) == Added((BOS,))
    assert added_tokens(appending("<s> $A </s> <pad>")) == Added((BOS,), (EOS, PAD))


@pytest.fixture(scope="module", params=["<s> $A </s>", "$A </s>"])
def engines(request):
    model, tokenizer = tiny_model(), appending(request.param)
    return [
        SharedPrefixLM(model, tokenizer),
        TruncatingHFLM(pretrained=model, tokenizer=tokenizer, softmax_dtype="float32"),
    ]


def by_hand(model, context: list[int], rest: list[int]) -> float:
    logits = model(torch.tensor([context + rest])).logits[0].float()
    logs = torch.log_softmax(logits, dim=-1)
    return float(sum(logs[len(context) + i - 1, token] for i, token in enumerate(rest)))


@torch.no_grad()
def test_engines_score_a_choice_on_its_own_tokens(engines):
    context, choice = "Question: g1\nAnswer:", " yes"
    asked = [Instance("loglikelihood", {}, (context, choice), 0)]
    bos = list(engines[0]._added.before)
    for lm in engines:
        ((score, _),) = lm.loglikelihood(asked)
        expected = by_hand(engines[0].model, [*bos, *ids_of(context)], ids_of(choice))
        assert score == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_engines_generate_after_the_prompt_itself(engines):
    context, model = "Sum: 1 + 2 =", engines[0].model
    ids = [*engines[0]._added.before, *ids_of(context)]
    for _ in range(6):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = PLAIN.decode(ids[-6:], skip_special_tokens=True)
    kwargs = {"until": [], "do_sample": False, "max_gen_toks": 6}
    for lm in engines:
        (text,) = lm.generate_until([Instance("generate_until", {}, (context, dict(kwargs)), 0)])
        assert text == expected


def test_a_bos_behind_spaces_is_the_only_one():
    for lm_text, mode in ((" <s>Q", "left"), ("\n <s>Q", "keep_instruction")):
        (prompt,) = encode_prompts(WITH_BOS, [lm_text], 50, mode)
        assert prompt.ids == [BOS, *ids_of("Q")]
    ((prompt, rest),) = encode_pairs(WITH_BOS, [(" <s>Q", " a")], 50, "left")
    assert (prompt.ids, rest) == ([BOS, *ids_of("Q")], ids_of(" a"))
    model = tiny_model()
    assert SharedPrefixLM(model, WITH_BOS).tok_encode(" <s>Q") == [BOS, *ids_of("Q")]
    hflm = TruncatingHFLM(pretrained=model, tokenizer=byte_tokenizer(bos=True))
    assert hflm.tok_encode(" <s>Q") == [BOS, *ids_of("Q")]
    (as_written,) = encode_prompts(PLAIN, [" <s>Q"], 50, "left")
    assert as_written.ids == ids_of(" <s>Q"), "a tokenizer without BOS adds none"


def test_special_tokens_in_texts_are_named():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "<|im|>"]})
    special = SpecialTokens(tokenizer)
    assert special.of("2<|im_end|>x</s></s>") == ["<|im_end|>", "</s>", "</s>"]
    assert special.of("a < b | c>") == []
    assert special.count(["</s>", "a", "<pad></s>", ""]) == (2, ["</s>", "<pad>"])
    assert named(["a", "b"]) == "`a`, `b`"
    assert named(list("abcdef")) == "`a`, `b`, `c`, `d` and 2 more"
