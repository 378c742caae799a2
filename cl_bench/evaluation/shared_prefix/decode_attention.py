"""Attention of decoding steps: every sequence's new tokens over its own slot, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cl_bench.evaluation.shared_prefix.cpu_decode_kernel import kernel_for

NAME = "cl-bench-slots"
ROWS = 8
"""Slots that share a width, so that none is read far beyond its end."""
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
"""What models tell their attention beside the mask; where tokens stand already says it."""


@dataclass(frozen=True)
class Part:
    """Slots start .. end - 1, with `tokens` new tokens each, the first of them at `first`."""

    start: int
    end: int
    first: int
    tokens: int
    width: int
    """Columns of the longest, the new ones included."""


def parts_of(lengths: Sequence[int], news: Sequence[int]) -> list[Part]:
    """Neighbouring slots with as many new tokens, which hold `lengths` keys before them."""
    parts: list[Part] = []
    start = first = 0
    for i, tokens in enumerate(news):
        if i + 1 == len(news) or news[i + 1] != tokens or i + 1 - start == ROWS:
            parts.append(Part(start, i + 1, first, tokens, max(lengths[start : i + 1]) + tokens))
            first += (i + 1 - start) * tokens
            start = i + 1
    return parts


@dataclass
class Step:
    """The new tokens of a step, side by side in one row."""

    slots: Tensor
    """int64 [N]: the slot of each."""
    positions: Tensor
    """int64 [N]: the column of each, which is its place in its sequence."""
    parts: list[Part]

    def __post_init__(self) -> None:
        self.ends = self.positions + 1
        self.width = max(part.width for part in self.parts)
        self._masks: dict[tuple[Part, int, torch.dtype], Tensor] = {}

    def mask(self, part: Part, repeat: int, dtype: torch.dtype) -> Tensor:
        """What a part's tokens may see, `repeat` times: [slots, 1, repeat * tokens, width]."""
        key = part, repeat, dtype
        if key not in self._masks:
            n = part.end - part.start
            own = self.positions[part.first : part.first + n * part.tokens].view(n, 1, -1, 1)
            hidden = torch.arange(part.width, device=own.device) > own
            mask = torch.zeros(hidden.shape, dtype=dtype, device=own.device)
            mask = mask.masked_fill_(hidden, torch.finfo(dtype).min)
            self._masks[key] = mask.repeat(1, 1, repeat, 1)
        return self._masks[key]


class SlotAttention:
    """Stands in the place of transformers' `sdpa`, whose passes have one shape for all sequences.

    There every sequence would have as many new tokens and be read up to the longest one's width,
    and keys and values be copied for every query head of a group.
    """

    def __init__(self, model: Any) -> None:
        found: list[Any] = [getattr(module, "config", None) for module in model.modules()]
        configs = {id(c): c for c in found if hasattr(c, "_attn_implementation_internal")}
        self.configs = list(configs.values())
        self.step: Step | None = None

    @property
    def possible(self) -> bool:
        """Whether all attention of the model goes through `sdpa`."""
        names = [config._attn_implementation_internal for config in self.configs]
        return bool(names) and set(names) == {"sdpa"}

    @contextmanager
    def over(self, step: Step) -> Iterator[None]:
        """Attend over the slots of a step inside the block."""
        self.step = step
        # In this table of the library alone, and gone afterwards: nothing is registered.
        ALL_ATTENTION_FUNCTIONS[NAME] = self.attend
        try:
            for config in self.configs:
                config._attn_implementation_internal = NAME
            yield
        finally:
            for config in self.configs:
                config._attn_implementation_internal = "sdpa"
            del ALL_ATTENTION_FUNCTIONS[NAME]
            self.step = None

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        scaling: float | None = None,
        dropout: float = 0.0,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """query [1, H, N, D], key and value [slots, G, C, D] -> [1, N, H, D]."""
        assert self.step is not None, "only inside `over`"
        step, others = self.step, options.keys() - WITHOUT_EFFECT
        if key.shape[0] < step.parts[-1].end or key.shape[2] < step.width:
            raise ValueError("the model's attention is given other keys than those of its cache")
        plain = any(options[name] is not None for name in others)
        kernel = None if plain or key.shape != value.shape else kernel_for(query, key)
        if kernel is not None:
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            rows = query[0].transpose(0, 1)
            return kernel(rows, key, value, step.slots, step.ends, scale)[None], None
        found = []
        for part in step.parts:
            n = part.end - part.start
            own = query[0, :, part.first : part.first + n * part.tokens]
            own = own.reshape(-1, n, part.tokens, own.shape[2]).transpose(0, 1)
            keys, values = (x[part.start : part.end, :, : part.width] for x in (key, value))
            if plain:
                mask = step.mask(part, 1, query.dtype)
                sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
                out = sdpa(module, own, keys, values, mask, dropout, scaling, **options)[0]
            else:
                # The query heads of a group become queries of its one key head.
                mask = step.mask(part, own.shape[1] // key.shape[1], query.dtype)
                grouped = own.reshape(n, key.shape[1], -1, own.shape[3])
                out = scaled_dot_product_attention(
                    grouped, keys, values, attn_mask=mask, scale=scaling
                )
                out = out.reshape(*own.shape[:3], -1).transpose(1, 2)
            found.append(out.reshape(1, n * part.tokens, own.shape[1], -1))
        return torch.cat(found, dim=1), None
