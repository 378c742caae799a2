"""Attention of decoding steps: a few rows at a time, each over no more columns than they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "cl-bench-rows"
ROWS = 8
"""Rows that share a width."""
WITHOUT_EFFECT = {
    "cache_position",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "past_key_values",
    "position_embeddings",
    "position_ids",
    "sliding_window",
    "use_cache",
}
"""What models tell their attention beside the mask; the mask already says it."""


@dataclass(frozen=True)
class Part:
    """Rows start .. end - 1, whose keys end before column `width`."""

    start: int
    end: int
    width: int


def parts_of(lengths: Sequence[int], tokens: int) -> list[Part]:
    """Parts of rows that hold `lengths` keys and add `tokens`."""
    return [
        Part(i, min(i + ROWS, len(lengths)), max(lengths[i : i + ROWS]) + tokens)
        for i in range(0, len(lengths), ROWS)
    ]


class RowAttention:
    """transformers' `sdpa` attention without its copies.

    For several query tokens and a mask that one copies keys and values for every query head of a
    group, and it reads all rows up to the longest one's width.
    """

    def __init__(self, model: Any) -> None:
        found: list[Any] = [getattr(module, "config", None) for module in model.modules()]
        configs = {id(c): c for c in found if hasattr(c, "_attn_implementation_internal")}
        self.configs = list(configs.values())
        self.parts: list[Part] = []

    @contextmanager
    def over(self, parts: list[Part]) -> Iterator[None]:
        """Attend by parts inside the block, where the model's attention is `sdpa`."""
        before = [config._attn_implementation_internal for config in self.configs]
        self.parts = parts
        # In this table of the library alone, and gone afterwards: nothing is registered.
        ALL_ATTENTION_FUNCTIONS[NAME] = self.attend
        try:
            for config, name in zip(self.configs, before, strict=True):
                config._attn_implementation_internal = NAME if name == "sdpa" else name
            yield
        finally:
            for config, name in zip(self.configs, before, strict=True):
                config._attn_implementation_internal = name
            del ALL_ATTENTION_FUNCTIONS[NAME]

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor,
        scaling: float | None = None,
        dropout: float = 0.0,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        """query [B, H, Q, D], key and value [B, G, L, D], mask [B, 1, Q, L] -> [B, Q, H, D]."""
        if any(options[name] is not None for name in options.keys() - WITHOUT_EFFECT):
            plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
            answer: tuple[torch.Tensor, None] = plain(
                module, query, key, value, attention_mask, dropout, scaling, **options
            )
            return answer
        heads, tokens = query.shape[1:3]
        groups = key.shape[1]
        found = []
        for part in self.parts:
            rows, columns = slice(part.start, part.end), slice(part.width)
            n = part.end - part.start
            # The query heads of a group become queries of its one key head.
            mask = attention_mask[rows, :, :, columns].repeat(1, 1, heads // groups, 1)
            out = scaled_dot_product_attention(
                query[rows].reshape(n, groups, -1, query.shape[3]),
                key[rows, :, columns],
                value[rows, :, columns],
                attn_mask=mask,
                scale=scaling,
            )
            found.append(out.reshape(n, heads, tokens, -1))
        return torch.cat(found).transpose(1, 2).contiguous(), None
