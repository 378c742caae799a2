"""lm-eval's own `HFLM` with what cl-bench defines beside it: cut prompts, empty continuations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from cl_bench.data.special_tokens import added_tokens
from cl_bench.evaluation.engines.request_counts import (
    ROOM_OF_HFLM,
    RequestCounts,
    score_counted,
)
from cl_bench.evaluation.engines.request_counts import EncodePrompts as EncodePrompts
from cl_bench.evaluation.finite import Watched
from cl_bench.models.positions import forget_lengths, length_rule, window


class TruncatingHFLM(Watched, HFLM):  # type: ignore[misc]
    """`HFLM` that cuts the prompts of generation requests as in training.

    An empty continuation has (0.0, True), where `HFLM` fails. What a tokenizer puts behind a text
    is left out. Where the longest sequence of a batch changes what is computed for the others,
    sequences beyond that length are computed alone.
    """

    encode_prompts: EncodePrompts | None = None

    def __init__(self, pretrained: Any, **options: Any) -> None:
        if (tokenizer := options.get("tokenizer")) is not None:
            options.setdefault("max_length", window(pretrained.config, tokenizer))
        super().__init__(pretrained=pretrained, **options)
        self.counters = RequestCounts()
        self._rule = length_rule(pretrained.config)
        forget_lengths(pretrained)
        self._added = added_tokens(self.tokenizer)

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **options: Any,
    ) -> list[int]:
        """As `HFLM`, without an EOS behind the text and with one BOS."""
        prefix = self.tokenizer.decode(self.prefix_token_id)
        adds = add_special_tokens is not False
        if add_special_tokens is None:
            string = self._added.own_prefix(string, prefix)
            adds = self.add_bos_token is not False and not string.startswith(prefix)
        ids: list[int] = super().tok_encode(string, add_special_tokens, **options)
        ids = self._added.without_end(ids) if adds else ids
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def halve_passes(self) -> bool:
        """Half as many requests at once from here on; whether that is possible."""
        size = self.batch_size_per_gpu  # type: ignore[has-type]
        if not isinstance(size, int) or size < 2:
            return False
        self.batch_size_per_gpu = size // 2
        return True

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """As `HFLM`, counted."""
        self.counters.requests += len(requests)

        def generate(some: list[Any]) -> list[str]:
            texts: list[str] = super(TruncatingHFLM, self).generate_until(some, disable_tqdm)
            return texts

        if self._rule is None:
            return generate(list(requests))
        encode = self.encode_prompts or (lambda texts: [self.tok_encode(text) for text in texts])
        prompts = encode([request.args[0] for request in requests])
        lengths = [
            len(ids) + normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"]
            for ids, request in zip(prompts, requests, strict=True)
        ]
        return self._by_length(list(requests), lengths, generate)

    def _by_length(
        self, requests: list[Any], lengths: Sequence[int], answer: Callable[[list[Any]], list[Any]]
    ) -> list[Any]:
        """The answers, those to requests beyond the rule's length one at a time."""
        assert self._rule is not None
        answers: dict[int, Any] = {}
        for alone in (False, True):
            chosen = [i for i, n in enumerate(lengths) if (n > self._rule.beyond) == alone]
            size: int = self.batch_size_per_gpu
            self.batch_size_per_gpu = 1 if alone else size
            try:
                found = answer([requests[i] for i in chosen]) if chosen else []
            finally:
                self.batch_size_per_gpu = size
            answers |= dict(zip(chosen, found, strict=True))
        return [answers[i] for i in range(len(requests))]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *args: Any, **options: Any
    ) -> list[tuple[float, bool]]:
        def score(some: list[Any]) -> list[tuple[float, bool]]:
            scores: list[tuple[float, bool]] = super(TruncatingHFLM, self)._loglikelihood_tokens(
                some, *args, **options
            )
            return scores

        def score_by_length(some: list[Any]) -> list[tuple[float, bool]]:
            if self._rule is None:
                return score(some)
            lengths = [len(context) + len(rest) - 1 for _, context, rest in some]
            return self._by_length(some, lengths, score)

        room = self.max_length + ROOM_OF_HFLM
        return score_counted(requests, room, self.counters, score_by_length)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask [B, T], padded on the left."""
        self._asked = strings
        encode = self.encode_prompts
        if encode is None and self._added.after:
            encode = self._encode_all
        if encode is None:
            if left_truncate_len:
                lengths = [len(self.tok_encode(string)) for string in strings]
                self.counters.truncated += sum(length > left_truncate_len for length in lengths)
            encoded: tuple[torch.Tensor, torch.Tensor] = super().tok_batch_encode(
                strings, padding_side, left_truncate_len, truncation
            )
            return encoded
        rows = encode(strings)
        if left_truncate_len:
            self.counters.truncated += sum(len(row) > left_truncate_len for row in rows)
            rows = [row[-left_truncate_len:] for row in rows]
        width = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return ids, mask

    def _encode_all(self, strings: Sequence[str]) -> list[list[int]]:
        return [self.tok_encode(string) for string in strings]
