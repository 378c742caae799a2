"""lm-eval's own `HFLM` with what cl-bench defines beside it: cut prompts, empty continuations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from cl_bench.evaluation.counting import ROOM_OF_HFLM, Asked, score_counted
from cl_bench.evaluation.engine import EncodePrompts


class TruncatingHFLM(HFLM):  # type: ignore[misc]
    """`HFLM` that cuts the prompts of generation requests as in training.

    An empty continuation has (0.0, True), where `HFLM` fails.
    """

    encode_prompts: EncodePrompts | None = None

    def __init__(self, pretrained: Any, **options: Any) -> None:
        super().__init__(pretrained=pretrained, **options)
        self.counters = Asked()

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """As `HFLM`, counted."""
        self.counters.requests += len(requests)
        texts: list[str] = super().generate_until(requests, disable_tqdm)
        return texts

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *args: Any, **options: Any
    ) -> list[tuple[float, bool]]:
        def score(some: list[Any]) -> list[tuple[float, bool]]:
            scores: list[tuple[float, bool]] = super(TruncatingHFLM, self)._loglikelihood_tokens(
                some, *args, **options
            )
            return scores

        return score_counted(requests, self.max_length + ROOM_OF_HFLM, self.counters, score)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask [B, T], padded on the left."""
        if self.encode_prompts is None:
            if left_truncate_len:
                lengths = [len(self.tok_encode(string)) for string in strings]
                self.counters.truncated += sum(length > left_truncate_len for length in lengths)
            encoded: tuple[torch.Tensor, torch.Tensor] = super().tok_batch_encode(
                strings, padding_side, left_truncate_len, truncation
            )
            return encoded
        rows = self.encode_prompts(strings)
        if left_truncate_len:
            self.counters.truncated += sum(len(row) > left_truncate_len for row in rows)
            rows = [row[-left_truncate_len:] for row in rows]
        width = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return ids, mask
