"""Texts of a model in memory for methods: prompts cut as in training, greedy or sampled."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.instance import Instance

from cl_bench.data.tokens import encode_prompts
from cl_bench.errors import RunError
from cl_bench.evaluation.finite import NotFinite
from cl_bench.evaluation.shared_prefix.drawing import Drawing, tokens_at
from cl_bench.evaluation.shared_prefix.fused.opened import generating
from cl_bench.evaluation.shared_prefix.generation import generate_tokens
from cl_bench.evaluation.shared_prefix.lm import CACHE_SHARE, SharedPrefixLM
from cl_bench.evaluation.shared_prefix.packed_model import evaluating
from cl_bench.evaluation.shared_prefix.sharing_trial import free_bytes
from cl_bench.evaluation.shared_prefix.slot_memory import Room
from cl_bench.evaluation.shared_prefix.stopping import StopRule, stop_rule, text_until_stop
from cl_bench.evaluation.untouched import untouched

if TYPE_CHECKING:
    from cl_bench.config.schema import TrainConfig
    from cl_bench.data.chat import Frame


def generate_texts(
    model: Any,
    tokenizer: Any,
    train: TrainConfig,
    prompts: Sequence[str],
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
    frame: Frame | None = None,
) -> list[str]:
    """A continuation of every prompt, up to the EOS, the end of its frame or `max_new_tokens`.

    At temperature 0 what scoring would generate, else sampled from the softmax of all logits over
    `temperature`, by each prompt's own seed. The model and all random states are as before.
    """
    if max_new_tokens < 1 or temperature < 0:
        raise RunError(
            f"stage.generate: max_new_tokens {max_new_tokens} must be 1 or more, temperature "
            f"{temperature} 0 or more"
        )
    if not prompts:
        return []
    limits = (train.max_prompt_tokens, train.truncation)
    encoded = encode_prompts(tokenizer, prompts, *limits, frame)
    ids = {prompt: one.ids for prompt, one in zip(prompts, encoded, strict=True)}
    with untouched(model):
        lm = SharedPrefixLM(
            model, tokenizer, encode_prompts=lambda texts: [ids[text] for text in texts]
        )
        ends = [frame.end.strip()] if frame is not None and frame.end.strip() else []
        kwargs: dict[str, Any] = {"until": ends, "max_gen_toks": max_new_tokens}
        if temperature > 0:
            rule = stop_rule(tokenizer, model.generation_config, kwargs, max_new_tokens)
            return _sampled(lm, [one.ids for one in encoded], rule, temperature, seeds)
        requests = [
            Instance("generate_until", {}, (prompt, dict(kwargs)), i)
            for i, prompt in enumerate(prompts)
        ]
        texts = lm.generate_until(requests, disable_tqdm=True)
        if any(isinstance(text, NotFinite) for text in texts):
            raise _no_numbers()
        return texts


def _sampled(
    lm: SharedPrefixLM,
    prompts: Sequence[list[int]],
    rule: StopRule,
    temperature: float,
    seeds: Sequence[int],
) -> list[str]:
    model, tokenizer = lm.model, lm.tokenizer
    room = lm.max_length - rule.max_new_tokens
    if room < 1:
        raise RunError(
            f"stage.generate: max_new_tokens {rule.max_new_tokens} leaves no room for a prompt in "
            f"the model's window of {lm.max_length} tokens"
        )
    cut = [ids[-room:] for ids in prompts]
    draws = [_Draws(seed) for seed in seeds]

    tokens: dict[int, list[int]] = {}
    with evaluating(model):
        window = lm._shareable()
        asked = [i for i, ids in enumerate(cut) if len(ids) + rule.max_new_tokens <= window]
        if asked:
            with generating(lm.packed):
                found, bad = generate_tokens(
                    lm.packed,
                    tokenizer,
                    [cut[i] for i in asked],
                    [rule] * len(asked),
                    replace(lm.limits, leaves=max(1, lm.sequences // 4)),
                    Room(lm.sequences, int(free_bytes(lm.packed.device) * CACHE_SHARE)),
                    drawing=Drawing(lambda i, place: draws[asked[i]][place], temperature),
                )
            if bad:
                raise _no_numbers()
            tokens |= dict(zip(asked, found, strict=True))
        for i in range(len(cut)):
            if i not in tokens:
                tokens[i] = _alone(lm, cut[i], rule, temperature, draws[i])
    return [text_until_stop(tokenizer, tokens[i], rule) for i in range(len(cut))]


def _no_numbers() -> RunError:
    return RunError("stage.generate: the model's logits are no numbers (NaN, infinite)")


def _alone(
    lm: SharedPrefixLM, prompt: list[int], rule: StopRule, temperature: float, draws: _Draws
) -> list[int]:
    """For models that share no prefixes: the whole sequence anew for every token."""
    new: list[int] = []
    while not new or not rule.ended(lm.tokenizer, new):
        held = [*prompt, *new]
        logits = lm.packed.run_alone(held, [len(held) - 1]).float()
        point = torch.tensor([draws[len(new)]], dtype=torch.float64)
        if not bool(logits.amax().isfinite()):
            raise _no_numbers()
        new.append(int(tokens_at(logits, point, temperature)))
    return new


class _Draws:
    """Numbers in 0-1, one for every new token of a text, whatever is asked for first."""

    def __init__(self, seed: int) -> None:
        self._random, self._drawn = random.Random(seed), list[float]()

    def __getitem__(self, place: int) -> float:
        while len(self._drawn) <= place:
            self._drawn.append(self._random.random())
        return self._drawn[place]
