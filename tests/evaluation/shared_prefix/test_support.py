"""The sharing trial tells rounding from a fault, in every precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from cl_bench.evaluation.engines.hflm import TruncatingHFLM
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from cl_bench.evaluation.shared_prefix.packed_model import evaluating
from cl_bench.evaluation.shared_prefix.sharing_trial import UNBOUNDED, why_not_shared
from tests.helpers.engine_oracle import hflm, requests
from tests.helpers.tiny import BYTE_VOCAB_SIZE, byte_tokenizer

SPECIAL = {"vocab_size": BYTE_VOCAB_SIZE, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
ALL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class IgnoresMasks(LlamaForCausalLM):
    """Every token sees all that stand before it in its row, whatever the mask says."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **rest: Any) -> Any:
        if attention_mask is not None and attention_mask.dim() == 4:
            queries, keys = attention_mask.shape[-2:]
            later = torch.arange(keys) > torch.arange(keys - queries, keys)[:, None]
            lowest = torch.finfo(attention_mask.dtype).min
            attention_mask = torch.zeros_like(attention_mask).masked_fill(later, lowest)
        return super().forward(input_ids, attention_mask, **rest)


class IgnoresPositions(LlamaForCausalLM):
    """Tokens are counted along the row."""

    def forward(self, input_ids: Any = None, position_ids: Any = None, **rest: Any) -> Any:
        return super().forward(input_ids, **rest)


class IgnoresCaches(LlamaForCausalLM):
    """What a cache holds is not looked at: a state of its own kind."""

    def forward(self, input_ids: Any = None, past_key_values: Any = None, **rest: Any) -> Any:
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            mask = rest.pop("attention_mask", None)
            rest["attention_mask"] = None if mask is None else mask[..., -input_ids.shape[1] :]
            past_key_values = None
        return super().forward(input_ids, past_key_values=past_key_values, **rest)


class StretchesLongPasses(LlamaForCausalLM):
    """Rotary angles that depend on the longest position, which no config says."""

    def forward(self, input_ids: Any = None, position_ids: Any = None, **rest: Any) -> Any:
        if position_ids is not None and int(position_ids.max()) >= 100:
            position_ids = position_ids // 3
        return super().forward(input_ids, position_ids=position_ids, **rest)


def llama(kind: type[LlamaForCausalLM] = LlamaForCausalLM, **changes: Any) -> Any:
    return made(kind, LlamaConfig(**SPECIAL, **(SHAPE | changes)))


def made(kind: Any, config: Any) -> Any:
    """A random model whose weights are large enough that every token matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model


def longrope() -> Any:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 24,
        "factor": 8.0,
    }
    return made(
        Phi3ForCausalLM,
        Phi3Config(
            **SPECIAL,
            **SHAPE,
            original_max_position_embeddings=24,
            rope_parameters=rope,
        ),
    )


def dynamic() -> Any:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    return llama(max_position_embeddings=24, rope_parameters=rope)


def biased() -> Any:
    return made(MptForCausalLM, MptConfig(**SPECIAL, d_model=32, n_layers=2, n_heads=4))


def verdict(model: Any, max_length: int = 512) -> tuple[str | None, int]:
    with evaluating(model):
        return why_not_shared(model, max_length)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_a_sound_model_shares_in_every_precision(dtype: torch.dtype) -> None:
    assert verdict(llama().to(dtype)) == (None, UNBOUNDED)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("kind", [IgnoresMasks, IgnoresPositions, IgnoresCaches])
def test_a_fault_is_found_in_every_precision(kind: Any, dtype: torch.dtype) -> None:
    reason, window = verdict(llama(kind).to(dtype))
    assert window == 0
    assert reason is not None


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_biases_by_distance_are_found(dtype: torch.dtype) -> None:
    reason, window = verdict(biased().to(dtype))
    assert window == 0 and reason is not None and "differ by" in reason


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_frequencies_that_depend_on_the_longest_position(dtype: torch.dtype) -> None:
    reason, window = verdict(llama(StretchesLongPasses).to(dtype))
    assert window == 0 and reason is not None and "longest position" in reason
    reason, window = verdict(longrope().to(dtype))
    assert window == 24 and reason is not None and "longrope" in reason


@pytest.mark.parametrize("make", [longrope, dynamic])
def test_mixed_lengths_are_scored_as_one_by_one_in_a_fresh_model(make: Any) -> None:
    """Neither what stands in the same pass nor what was scored before changes an answer."""
    tokenizer, model = byte_tokenizer(), make()
    contexts = ["word " * n for n in (1, 3, 4, 5, 9, 20)]
    asked = requests("loglikelihood", [(c + "x", r) for c in contexts for r in (" a", " bcd")])
    kwargs = {"until": [], "max_gen_toks": 8}
    prompts = requests("generate_until", [(context + "x", kwargs) for context in contexts])
    scores, texts = [], []
    for one in asked:
        oracle = hflm(make(), tokenizer, max_length=200)
        scores += [score for score, _ in oracle.loglikelihood([one], disable_tqdm=True)]
    for one in prompts:
        texts += hflm(make(), tokenizer, max_length=200).generate_until([one], disable_tqdm=True)
    engine = SharedPrefixLM(model, tokenizer, max_length=200)
    assert [s for s, _ in engine.loglikelihood(asked)] == pytest.approx(scores, abs=1e-4)
    assert engine.generate_until(prompts) == texts
    assert engine.reason is not None and 0 < engine.counters.unshared < len(asked) + len(prompts)
    plain = TruncatingHFLM(
        pretrained=model, tokenizer=tokenizer, max_length=200, batch_size=8, softmax_dtype="float32"
    )
    found = plain.loglikelihood(asked, disable_tqdm=True)
    assert [s for s, _ in found] == pytest.approx(scores, abs=1e-4)
    assert plain.generate_until(prompts, disable_tqdm=True) == texts
    assert plain.batch_size == 8


def test_what_is_not_shared_is_said() -> None:
    note = SharedPrefixLM(longrope(), byte_tokenizer()).note()
    assert note is not None and "more than 24 tokens" in note and "times as long" in note
    assert SharedPrefixLM(llama(), byte_tokenizer()).note() is None
