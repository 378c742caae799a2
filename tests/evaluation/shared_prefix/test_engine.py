"""The shared-prefix engine answers as lm-eval's `HFLM` does, on tiny random models."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.model import LM
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from cl_bench.errors import UserError
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from tests.helpers.engine_oracle import hflm, requests
from tests.helpers.tiny import BYTE_VOCAB_SIZE, byte_tokenizer, tiny_model

MANY = settings(max_examples=20, deadline=None)
SOME = settings(max_examples=10, deadline=None)
HEADERS = ["", "Q: one?\nA: yes\n\nQ: two?\nA: no\n\n", "Q: one?\nA: yes\n\nQ: ten?\nA: ", " x "]
WORDS = st.sampled_from(["a", "b", " yes", " no", "\n", "é", "中", " ", "Q:", "."])
TEXTS = st.lists(WORDS, max_size=6).map("".join)
# HFLM fails where a context is nothing but spaces and no token stands before it.
CONTEXTS = (
    st.tuples(st.sampled_from(HEADERS), TEXTS).map("".join).filter(lambda c: not c or c.strip())
)
PAIRS = st.lists(st.tuples(CONTEXTS, TEXTS.filter(bool)), min_size=1, max_size=12)
GENERATIONS = st.lists(
    st.tuples(
        CONTEXTS.filter(bool),
        st.fixed_dictionaries(
            {
                "until": st.sampled_from([[], ["\n"], ["a", "bc"], ["<pad>"], "x", ["\n", "Q:"]]),
                "max_gen_toks": st.integers(1, 12),
            }
        ),
    ),
    min_size=1,
    max_size=10,
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=[("llama", False), ("qwen2", True)])
def pair(request):
    """(model, tokenizer, HFLM) of one architecture, without and with a BOS token in front."""
    kind, bos = request.param
    model, tokenizer = tiny_model(kind=kind, seed=3), byte_tokenizer(bos)
    return model, tokenizer, hflm(model, tokenizer)


def assert_scores_equal(mine, theirs, tolerance=1e-4):
    for (a, greedy_a), (b, greedy_b) in zip(mine, theirs, strict=True):
        assert a == pytest.approx(b, abs=tolerance, rel=1e-6)
        assert greedy_a == greedy_b


def test_it_is_an_lm():
    assert issubclass(SharedPrefixLM, LM)


@MANY
@given(arguments=PAIRS, budget=st.sampled_from([8, 40, 512]))
def test_loglikelihoods_are_those_of_hflm(pair, arguments, budget):
    model, tokenizer, oracle = pair
    arguments = [*arguments, arguments[0]]
    asked = requests("loglikelihood", arguments)
    engine = SharedPrefixLM(model, tokenizer, token_budget=budget)
    expected = oracle.loglikelihood(asked, disable_tqdm=True)
    assert_scores_equal(engine.loglikelihood(asked), expected)
    assert engine.reason is None
    assert engine.counters.unshared == 0


@SOME
@given(arguments=GENERATIONS, budget=st.sampled_from([8, 40, 512]))
def test_texts_are_those_of_hflm(pair, arguments, budget):
    model, tokenizer, oracle = pair
    asked = requests("generate_until", arguments)
    engine = SharedPrefixLM(model, tokenizer, token_budget=budget)
    engine.sequences = 3
    expected = oracle.generate_until(asked, disable_tqdm=True)
    assert engine.generate_until(asked) == expected
    assert engine.counters.unshared == 0


@MANY
@given(arguments=st.lists(st.tuples(TEXTS), min_size=1, max_size=5))
def test_rolling_loglikelihoods_are_those_of_hflm(pair, arguments):
    model, tokenizer, _ = pair
    oracle = hflm(model, tokenizer, max_length=7)
    engine = SharedPrefixLM(model, tokenizer, max_length=7)
    asked = requests("loglikelihood_rolling", arguments)
    expected = oracle.loglikelihood_rolling(asked, disable_tqdm=True)
    assert engine.loglikelihood_rolling(asked) == pytest.approx(expected, abs=1e-4)


def test_choices_of_a_question_share_its_context(pair):
    model, tokenizer, oracle = pair
    header = "The following are questions.\n\n" * 8
    questions = [header + f"Question {i}: what?\nAnswer:" for i in range(12)]
    choices = [" A", " B", " Because of it", " Because of that", " A"]
    asked = requests("loglikelihood", [(q, c) for q in questions for c in choices])
    engine = SharedPrefixLM(model, tokenizer)
    assert_scores_equal(engine.loglikelihood(asked), oracle.loglikelihood(asked, disable_tqdm=True))
    assert engine.counters.prompt_tokens > 10 * engine.counters.computed_tokens


def test_a_greedy_continuation_is_recognised(pair):
    model, tokenizer, oracle = pair
    text = oracle.generate_until(
        requests("generate_until", [("ab", {"until": [], "max_gen_toks": 1})]), disable_tqdm=True
    )[0]
    asked = requests("loglikelihood", [("ab", text or "</s>"), ("ab", "zz")])
    assert [greedy for _, greedy in SharedPrefixLM(model, tokenizer).loglikelihood(asked)] == [
        greedy for _, greedy in oracle.loglikelihood(asked, disable_tqdm=True)
    ]


def test_generation_batches_refill_and_drain(pair):
    model, tokenizer, oracle = pair
    rng = random.Random(5)
    header = "Read the text and answer.\n" * 6
    arguments = [
        (header + "word " * rng.randint(1, 9), {"until": ["q"], "max_gen_toks": rng.randint(1, 30)})
        for _ in range(30)
    ]
    asked = requests("generate_until", arguments)
    engine = SharedPrefixLM(model, tokenizer, token_budget=64)
    engine.sequences = 4
    assert engine.generate_until(asked) == oracle.generate_until(asked, disable_tqdm=True)
    assert engine.counters.computed_tokens < engine.counters.prompt_tokens / 3


def test_texts_that_may_repeat_themselves_stay_the_same(pair):
    """Random models fall into loops; some texts end within one, by length or by a stop string."""
    model, tokenizer, oracle = pair
    arguments = [
        (f"{i} is", {"until": until, "max_gen_toks": 30 + i})
        for i, until in enumerate([[], ["a"], ["\x16"], [], [], ["QQ"]])
    ]
    asked = requests("generate_until", arguments)
    engine = SharedPrefixLM(model, tokenizer)
    assert engine.generate_until(asked) == oracle.generate_until(asked, disable_tqdm=True)
    assert engine.counters.decoded_tokens > engine.counters.guessed_tokens
    one_by_one = SharedPrefixLM(model, tokenizer)
    one_by_one.sequences = 1
    assert one_by_one.generate_until(asked) == engine.generate_until(asked)


def test_guesses_stay_within_the_window():
    model, tokenizer = other_model("gpt2").eval(), byte_tokenizer()
    asked = requests("generate_until", [("ab" * 200, {"until": [], "max_gen_toks": 112})])
    engine = SharedPrefixLM(model, tokenizer)
    assert engine.max_length == 512
    expected = hflm(model, tokenizer).generate_until(asked, disable_tqdm=True)
    assert engine.generate_until(asked) == expected
    assert engine.counters.guessed_tokens > 0


def test_an_adapter_around_the_model():
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model, tokenizer = get_peft_model(tiny_model(), config).eval(), byte_tokenizer()
    oracle, engine = hflm(model, tokenizer), SharedPrefixLM(model, tokenizer)
    asked = requests("loglikelihood", [("the same context", c) for c in (" a", " b", " ab")])
    expected = oracle.loglikelihood(asked, disable_tqdm=True)
    assert_scores_equal(engine.loglikelihood(asked), expected)
    short = {"until": ["x"], "max_gen_toks": 9}
    prompts = requests("generate_until", [("abc", {"max_gen_toks": 8}), ("b", short)])
    expected = oracle.generate_until(prompts, disable_tqdm=True)
    assert engine.generate_until(prompts) == expected
    assert engine.counters.unshared == 0


def test_one_request_alone(pair):
    model, tokenizer, oracle = pair
    one = requests("loglikelihood", [("hello", " world")])
    assert_scores_equal(
        SharedPrefixLM(model, tokenizer).loglikelihood(one),
        oracle.loglikelihood(one, disable_tqdm=True),
    )
    assert SharedPrefixLM(model, tokenizer).loglikelihood([]) == []
    assert SharedPrefixLM(model, tokenizer).generate_until([]) == []


def test_prompts_longer_than_the_window_are_cut_left_and_counted(pair):
    model, tokenizer, _ = pair
    oracle = hflm(model, tokenizer, max_length=20)
    engine = SharedPrefixLM(model, tokenizer, max_length=20)
    asked = requests("loglikelihood", [("x" * 30 + "y" * n, " yes") for n in range(4)])
    expected = oracle.loglikelihood(asked, disable_tqdm=True)
    assert_scores_equal(engine.loglikelihood(asked), expected)
    assert engine.counters.truncated == 4
    kwargs = {"until": [], "max_gen_toks": 5}
    prompts = requests("generate_until", [("ab" * 30, kwargs), ("ab", kwargs)])
    expected = oracle.generate_until(prompts, disable_tqdm=True)
    assert engine.generate_until(prompts) == expected
    assert engine.counters.truncated == 5


def test_an_empty_continuation_has_probability_one(pair):
    model, tokenizer, _ = pair
    engine = SharedPrefixLM(model, tokenizer)
    asked = requests("loglikelihood", [("ab", ""), ("", ""), ("ab", "c")])
    assert engine.loglikelihood(asked)[:2] == [(0.0, True), (0.0, True)]
    assert engine.counters.empty == 2


def test_a_context_of_spaces_counts_as_none():
    model, tokenizer = tiny_model(), byte_tokenizer()
    spaces = requests("loglikelihood", [("  ", "ab")])
    nothing = requests("loglikelihood", [("", "  ab")])
    engine = SharedPrefixLM(model, tokenizer)
    assert engine.loglikelihood(spaces) == engine.loglikelihood(nothing)


def test_no_new_tokens_are_an_empty_text(pair):
    model, tokenizer, _ = pair
    asked = requests("generate_until", [("ab", {"until": ["x"], "max_gen_toks": 0})])
    assert SharedPrefixLM(model, tokenizer).generate_until(asked) == [""]


def test_what_cannot_fit_the_window_is_an_error(pair):
    model, tokenizer, _ = pair
    engine = SharedPrefixLM(model, tokenizer, max_length=8)
    with pytest.raises(UserError, match="12 tokens, the model's window 8"):
        engine.loglikelihood(requests("loglikelihood", [("ab", "c" * 12)]))
    with pytest.raises(UserError, match="no room for a prompt"):
        engine.generate_until(requests("generate_until", [("ab", {"max_gen_toks": 8})]))


def test_a_tokenizer_without_pad_and_bos_token():
    model, tokenizer = tiny_model(), byte_tokenizer()
    tokenizer.pad_token = tokenizer.bos_token = None
    oracle, engine = hflm(model, tokenizer), SharedPrefixLM(model, tokenizer)
    asked = requests("loglikelihood", [("", "abc"), ("ab", "cd"), ("a", "b")])
    expected = oracle.loglikelihood(asked, disable_tqdm=True)
    assert_scores_equal(engine.loglikelihood(asked), expected)
    prompts = requests("generate_until", [("ab", {"max_gen_toks": 3}), ("a", {"max_gen_toks": 4})])
    expected = oracle.generate_until(prompts, disable_tqdm=True)
    assert engine.generate_until(prompts) == expected
    assert tokenizer.pad_token is None


def test_a_tokenizer_without_any_special_token_needs_a_context():
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.bos_token = tokenizer.eos_token = None
    engine = SharedPrefixLM(tiny_model(), tokenizer)
    assert len(engine.loglikelihood(requests("loglikelihood", [("a", "b")]))) == 1
    assert engine.generate_until(requests("generate_until", [("a", {"max_gen_toks": 2})]))
    with pytest.raises(UserError, match="neither a BOS nor an EOS"):
        engine.loglikelihood(requests("loglikelihood", [("", "b")]))


def test_prompts_are_encoded_by_the_caller(pair):
    model, tokenizer, _ = pair
    engine = SharedPrefixLM(
        model,
        tokenizer,
        encode_prompts=lambda texts: [tokenizer.encode(text)[-3:] for text in texts],
    )
    kwargs = {"until": [], "max_gen_toks": 6}
    long = requests("generate_until", [("abcdefgh", kwargs), ("xyzfgh", kwargs)])
    ids = tokenizer.encode("abcdefgh")[-3:]
    with torch.no_grad():
        new = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, 3:]
    wanted = tokenizer.decode(new, skip_special_tokens=True)
    assert engine.generate_until(long) == [wanted, wanted]


SHAPE = {"vocab_size": BYTE_VOCAB_SIZE, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def other_model(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if kind == "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=512, **SHAPE)
            )
        size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        if kind == "neox":
            return GPTNeoXForCausalLM(GPTNeoXConfig(intermediate_size=64, **size, **SHAPE))
        if kind == "alibi":
            size = {"hidden_size": 32, "n_layer": 2, "n_head": 2}
            return BloomForCausalLM(BloomConfig(**size, **SHAPE))
        config = MistralConfig(
            sliding_window=16, num_key_value_heads=2, intermediate_size=64, **size, **SHAPE
        )
        return MistralForCausalLM(config)


@pytest.mark.parametrize(
    ("kind", "attention", "shares"),
    [
        ("gpt2", "sdpa", "all"),
        ("gpt2", "eager", "all"),
        ("neox", "sdpa", "all"),
        ("window", "sdpa", "short"),
        ("alibi", "eager", "none"),
    ],
)
def test_other_architectures(kind, attention, shares):
    """Absolute positions, partial rotary, a sliding window, and biases by distance (no sharing)."""
    model, tokenizer = other_model(kind).eval(), byte_tokenizer()
    model.set_attn_implementation(attention)
    oracle = hflm(model, tokenizer, max_length=256)
    engine = SharedPrefixLM(model, tokenizer, max_length=256)
    contexts = ["short", "short one", "a much longer context, beyond the window", "a much"]
    asked = requests("loglikelihood", [(c, r) for c in contexts for r in (" yes", " no", " y")])
    expected = oracle.loglikelihood(asked, disable_tqdm=True)
    assert_scores_equal(engine.loglikelihood(asked), expected)
    kwargs = {"until": ["\n"], "max_gen_toks": 6}
    prompts = requests("generate_until", [(context, kwargs) for context in contexts])
    expected = oracle.generate_until(prompts, disable_tqdm=True)
    assert engine.generate_until(prompts) == expected
    total = len(asked) + len(prompts)
    unshared = {"all": 0, "none": total, "short": 3 + 1}[shares]
    assert engine.counters.unshared == unshared
    assert (engine.reason is not None) == (shares == "none")


def test_options_that_only_generate_knows_go_to_hflm(pair):
    model, tokenizer, oracle = pair
    penalty = {"until": [], "max_gen_toks": 8, "repetition_penalty": 1.5}
    plain = {"until": [], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0}
    asked = requests("generate_until", [("ab", plain), ("ab", penalty), ("cd", plain)])
    engine = SharedPrefixLM(model, tokenizer)
    assert engine.generate_until(asked) == oracle.generate_until(asked, disable_tqdm=True)
    assert engine.counters.unshared == 1


def test_a_generation_config_that_changes_the_search_is_obeyed():
    model, tokenizer = tiny_model(seed=8), byte_tokenizer()
    model.generation_config.repetition_penalty = 1.3
    asked = requests("generate_until", [("ab", {"max_gen_toks": 12}), ("b", {"max_gen_toks": 9})])
    engine = SharedPrefixLM(model, tokenizer)
    expected = hflm(model, tokenizer).generate_until(asked, disable_tqdm=True)
    assert engine.generate_until(asked) == expected
    assert engine.counters.unshared == 2


def test_every_end_token_of_the_generation_config_ends_a_text():
    model, tokenizer = tiny_model(seed=4), byte_tokenizer()
    asked = requests("generate_until", [(c, {"until": [], "max_gen_toks": 20}) for c in "abcdef"])
    free = SharedPrefixLM(model, tokenizer).generate_until(asked)
    seen = [tokenizer.encode(text[3]) for text in free if len(text) > 3]
    model.generation_config.eos_token_id = [2, *(ids[0] for ids in seen)]
    expected = hflm(model, tokenizer).generate_until(asked, disable_tqdm=True)
    assert SharedPrefixLM(model, tokenizer).generate_until(asked) == expected != free
