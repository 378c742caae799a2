"""When a generation ends, and what of it is the answer: as lm-eval's `HFLM` has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

SLACK = 2
"""HFLM looks at this many tokens more than the stop string has when it is encoded."""
WITHOUT_EFFECT = {"do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p"}
"""Generation options that change nothing while sampling is off."""
CHANGES_GREEDY = (
    "num_beams",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "min_length",
    "min_new_tokens",
    "guidance_scale",
    "exponential_decay_length_penalty",
    "penalty_alpha",
    "stop_strings",
    "watermarking_config",
)
"""Settings of a model's generation config with which greedy search is more than an argmax."""


@dataclass(frozen=True)
class StopRule:
    """What ends one request's generation."""

    strings: tuple[str, ...]
    """Stop strings, the tokenizer's end of text among them."""
    lookbacks: tuple[int, ...]
    """For each stop string, how many of the last tokens are searched for it."""
    eos: frozenset[int]
    """Token ids that end it (the model's generation config)."""
    max_new_tokens: int
    greedy: bool = True
    """False: options that only `model.generate` knows, sampling for one."""

    def ended(self, tokenizer: Any, tokens: Sequence[int]) -> bool:
        """Whether the last of `tokens` (new ones, at least one) completes the generation."""
        if len(tokens) >= self.max_new_tokens or tokens[-1] in self.eos:
            return True
        windows = {n: tokenizer.decode(list(tokens[-n:])) for n in set(self.lookbacks)}
        searched = zip(self.strings, self.lookbacks, strict=True)
        return any(string in windows[n] for string, n in searched)


def stop_rule(
    tokenizer: Any, config: Any, kwargs: Mapping[str, Any], default_new_tokens: int
) -> StopRule:
    """The rule of a request's generation kwargs, under a model's generation config."""
    options = dict(normalize_gen_kwargs(dict(kwargs), default_new_tokens))
    eos = tokenizer.eos_token_id
    end = None if eos is None else tokenizer.decode(eos, skip_special_tokens=False)
    strings = handle_stop_sequences(options.pop("until"), eos=end)
    new_tokens = options.pop("max_gen_toks")
    greedy = not options.get("do_sample") and options.keys() <= WITHOUT_EFFECT
    lookbacks = (len(tokenizer.encode(each, add_special_tokens=False)) for each in strings)
    return StopRule(
        tuple(strings),
        tuple(length + SLACK for length in lookbacks),
        _ids(config.eos_token_id),
        new_tokens,
        greedy,
    )


def is_greedy_config(config: Any) -> bool:
    """Whether `model.generate` without sampling is an argmax under this generation config."""
    values = [getattr(config, name, None) for name in CHANGES_GREEDY]
    return all(value is None or value in (0, 1) or value in ([], {}) for value in values)


def text_until_stop(tokenizer: Any, tokens: Sequence[int], rule: StopRule) -> str:
    """The text before the first stop string, special tokens left out."""
    text = tokenizer.decode(list(tokens), skip_special_tokens=True)
    answer: str = postprocess_generated_text(text, list(rule.strings), None)
    return answer


def _ids(eos: int | Sequence[int] | None) -> frozenset[int]:
    return frozenset([] if eos is None else [eos] if isinstance(eos, int) else eos)
