"""What scoring makes of a perfect generation: the trained answer, as the engine would return it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lm_eval.api.instance import Instance

from cl_bench.data.tokens import encode_answers
from cl_bench.evaluation.harness import answers_capped
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from cl_bench.evaluation.shared_prefix.stopping import StopRule, stop_rule, text_until_stop

UNLIMITED = 10**9


def generated_text(tokenizer: Any, ids: Sequence[int], rule: StopRule) -> str:
    """The text that a generation of these tokens gives, which ends where the engine ends it."""
    tokens = list(ids[: rule.max_new_tokens])
    end = next((i for i, token in enumerate(tokens) if token in rule.eos), None)
    tokens = tokens if end is None else tokens[: end + 1]

    def stopped(length: int) -> bool:
        text = tokenizer.decode(tokens[:length])
        return any(string in text for string in rule.strings)

    if stopped(len(tokens)):
        low, high = 0, len(tokens)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if stopped(middle) else (middle, high)
        tokens = tokens[:high]
    return text_until_stop(tokenizer, tokens, rule)


def model_eos(path: str | Path) -> Any:
    """An object with the `eos_token_id` of a model's generation config; no weights are read.

    None where the folder says nothing: the tokenizer's EOS ends a generation anyway.
    """
    from transformers import AutoConfig, GenerationConfig

    from cl_bench.models.load import split_revision

    name, revision = split_revision(str(path))
    for kind in (GenerationConfig, AutoConfig):
        try:
            found = kind.from_pretrained(name, revision=revision)
        except (OSError, ValueError, KeyError):
            continue
        if found.eos_token_id is not None:
            return SimpleNamespace(eos_token_id=found.eos_token_id)
    return SimpleNamespace(eos_token_id=None)


@dataclass(frozen=True)
class Generator:
    """Perfect generations of one task, under one limit of new tokens."""

    tokenizer: Any
    rule: StopRule
    stop_strings: tuple[str, ...]
    """Those of the YAML, without the tokenizer's end of text."""

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Answers as training encodes them, without the EOS behind them."""
        return encode_answers(self.tokenizer, texts)

    def text(self, ids: Sequence[int]) -> str:
        """What scoring is given."""
        return generated_text(self.tokenizer, ids, self.rule)

    def unstopped(self, ids: Sequence[int]) -> str:
        """The same without the YAML's stop strings and without a limit."""
        kept = [s for s in self.rule.strings if s not in self.stop_strings]
        looks = self.rule.lookbacks[: len(kept)]
        free = StopRule(tuple(kept), looks, self.rule.eos, UNLIMITED)
        return generated_text(self.tokenizer, ids, free)

    def unlimited(self, ids: Sequence[int]) -> str:
        """The same without a limit."""
        return generated_text(self.tokenizer, ids, replace(self.rule, max_new_tokens=UNLIMITED))


def generator(task: Any, tokenizer: Any, eos: Any, max_new_tokens: int | None) -> Generator:
    """As a `generate_until` task is answered when a run caps answers at `max_new_tokens`.

    None: as General is, up to the YAML's own limit.
    """
    with answers_capped([task], max_new_tokens):
        kwargs = dict(task.config.generation_kwargs or {})
    until = kwargs.get("until") or []
    strings = (until,) if isinstance(until, str) else tuple(until)
    default = max_new_tokens or SharedPrefixLM.max_gen_toks
    rule = stop_rule(tokenizer, eos, {"until": list(strings), **kwargs}, default)
    return Generator(tokenizer, rule, strings)


def through_filters(task: Any, docs: Sequence[Any], texts: Sequence[str]) -> list[dict[str, Any]]:
    """For each document, what every filter of the task makes of its text."""
    repeats = int(task.config.repeats or 1)
    instances = [
        Instance("generate_until", doc, ("", {}), 0, resps=[text] * repeats)
        for doc, text in zip(docs, texts, strict=True)
    ]
    if instances:
        for ensemble in task._filters:
            ensemble.apply(instances)
    return [instance.filtered_resps for instance in instances]


def only_takes_first(task: Any) -> bool:
    """Whether the task's filters change no text."""
    steps = [
        step["function"] for entry in task.config.filter_list or [] for step in entry["filter"]
    ]
    return set(steps) <= {"take_first"}
