"""Whole-prompt perplexity against a loop over prompts, on both engines."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from cl_bench.evaluation.whole_prompt import mean_loglikelihoods, whole_prompts
from tests.helpers.engine_oracle import hflm, mean_cross_entropy
from tests.helpers.tiny import byte_tokenizer, tiny_model

PARTS = st.lists(st.text("ab \nQA:é", min_size=1, max_size=12), min_size=2, max_size=5)


@pytest.fixture(scope="module", params=[("llama", True), ("qwen2", False)])
def pair(request):
    kind, bos = request.param
    return tiny_model(kind=kind, seed=5), byte_tokenizer(bos)


def engines(model, tokenizer):
    return (
        SharedPrefixLM(model, tokenizer),
        hflm(model, tokenizer),
        hflm(model, tokenizer, logits_cache=True, batch_size=3),
    )


def request(prompt: str, ends=(0,), window: int = 2048) -> Instance:
    return Instance("mean_loglikelihood", {}, (prompt, tuple(ends), window), 0)


@settings(max_examples=15, deadline=None)
@given(parts=PARTS, endings=st.lists(st.sampled_from("ABé "), min_size=1, max_size=4))
def test_means_are_those_of_a_loop(pair, parts, endings):
    model, tokenizer = pair
    prompts = ["".join(parts) + ending for ending in endings] + parts
    expected = [mean_cross_entropy(model, tokenizer, prompt) for prompt in prompts]
    for lm in engines(model, tokenizer):
        found = mean_loglikelihoods(lm, [request(prompt) for prompt in prompts])
        for (mean, tokens), (loss, count) in zip(found, expected, strict=True):
            assert tokens == count
            assert mean == pytest.approx(-loss, abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(parts=PARTS, window=st.integers(4, 60))
def test_shots_are_dropped_from_the_last_on_then_the_left_is_cut(pair, parts, window):
    model, tokenizer = pair
    header, *shots, question = parts
    ends = list(accumulate([len(header), *map(len, shots)]))
    for kept in range(len(shots), -1, -1):
        prompt = header + "".join(shots[:kept]) + question
        if len(tokenizer(prompt).input_ids) <= window:
            break
    loss, tokens = mean_cross_entropy(model, tokenizer, prompt, window)
    for lm in engines(model, tokenizer):
        ((mean, count),) = mean_loglikelihoods(lm, [request("".join(parts), ends, window)])
        assert count == tokens
        assert mean == pytest.approx(-loss, abs=1e-5)


def test_the_models_window_is_the_limit_where_it_is_smaller(pair):
    model, tokenizer = pair
    lm = SharedPrefixLM(model, tokenizer, max_length=16)
    ((mean, tokens),) = mean_loglikelihoods(lm, [request("a question " * 9)])
    loss, count = mean_cross_entropy(model, tokenizer, "a question " * 9, 16)
    assert (tokens, mean) == (count, pytest.approx(-loss, abs=1e-5))
    assert lm.counters.truncated == 1, "counted here; nothing is left for the engine to cut"


def test_what_prompts_share_is_computed_once(pair):
    model, tokenizer = pair
    lm = SharedPrefixLM(model, tokenizer)
    header = "".join(f"Question {i}?\nAnswer: A\n\n" for i in range(40))
    questions = [f"What of {i}?\nA. yes\nB. no\nAnswer: " for i in range(30)]
    prompts = [header + question + letter for question in questions for letter in "ABCD"]
    mean_loglikelihoods(lm, [request(prompt) for prompt in prompts])
    distinct = len(header) + sum(map(len, questions))
    assert lm.counters.prompt_tokens > 40 * distinct
    assert lm.counters.computed_tokens < 1.5 * distinct, "headers and questions once, and padding"
    assert lm.counters.unshared == 0


def test_the_request_type_keeps_no_model_alive(pair):
    lm = SharedPrefixLM(*pair)
    with whole_prompts(lm):
        ((mean, _),) = lm.mean_loglikelihood([request("a question")])
    assert mean == pytest.approx(-mean_cross_entropy(*pair, "a question")[0], abs=1e-5)
    assert not hasattr(lm, "mean_loglikelihood")
