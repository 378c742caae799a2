"""Forward passes over packed prefix trees, and where a model allows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import DynamicCache

from cl_bench.evaluation.shared_prefix.decode_attention import SlotAttention, Step, parts_of
from cl_bench.evaluation.shared_prefix.fused.layers import FusedLayers
from cl_bench.evaluation.shared_prefix.kv_slots import SlotCache
from cl_bench.evaluation.shared_prefix.packing import Array, Mask, PackLayout
from cl_bench.evaluation.shared_prefix.scored_positions import only_kept
from cl_bench.models.positions import forget_lengths

TAKES_MASKS = ("sdpa", "eager")
"""Attention implementations of transformers that take a mask of any form."""


@dataclass
class Counters:
    """What the engine did, for reports and tests."""

    requests: int = 0
    truncated: int = 0
    """Requests whose prompt was cut on the left to fit the model's window."""
    empty: int = 0
    """Requests with an empty continuation: log-likelihood 0, greedy."""
    unshared: int = 0
    """Requests answered by lm-eval's own `HFLM` (the model or the request allows no sharing)."""
    prompt_tokens: int = 0
    """Tokens that a pass per request would have computed."""
    computed_tokens: int = 0
    """Tokens computed, padding included, decoded tokens not."""
    decoded_tokens: int = 0
    """Tokens of the answers, the first of each not counted."""
    guessed_tokens: int = 0
    """Those of them that were guessed right and cost no pass of their own."""
    passes: int = 0
    """Forward passes, decoding steps not counted."""
    steps: int = 0
    """Decoding steps."""

    def add(self, other: Counters) -> None:
        """Count what another counted."""
        for field in fields(self):
            total = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, total)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode, no gradients, attention that takes any mask; all as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    attention = model.config._attn_implementation
    model.eval()
    forget_lengths(model)
    try:
        if attention not in TAKES_MASKS:
            model.set_attn_implementation("sdpa")
        # Not inference_mode: a buffer that a model caches there could not be trained with.
        with torch.no_grad():
            yield
    finally:
        if attention not in TAKES_MASKS:
            model.set_attn_implementation(attention)
        for module, training in modes:
            module.training = training


class PackedModel:
    """A causal LM that runs packs on a trunk of cached keys and values."""

    def __init__(self, model: Any, counters: Counters) -> None:
        self.model = model
        self.counters = counters
        self.device = model.get_input_embeddings().weight.device
        self.attention = SlotAttention(model)
        self.fused: FusedLayers | None = None
        """Layers that compute in the model's place (fused/opened.py)."""
        self.kept: FusedLayers | None = None
        """Packed ones for the next generations: packing takes a second."""
        self.ahead = False
        """Whether generations are decoded ahead (ahead/opened.py)."""
        self.lowest = torch.finfo(model.dtype).min
        """What masks positions."""

    @property
    def tokens_at_once(self) -> int:
        """Tokens that fill a forward pass. Small passes need less padding."""
        if self.device.type != "cpu":
            return 16384
        # These already fill products on a CPU, of matrix units in half precision.
        return 1024 if self.model.dtype.itemsize > 2 else 2048

    def run(
        self, layout: PackLayout, keep: Array, cache: DynamicCache | None = None
    ) -> torch.Tensor:
        """Logits [len(keep), vocab] in the model's dtype; `keep` indexes the flattened [B * T].

        With a cache, the pass goes on from what it holds and appends to it.
        """
        ids = torch.from_numpy(layout.ids).to(self.device)
        self.counters.passes += 1
        self.counters.computed_tokens += ids.numel()
        with only_kept(self.model, torch.from_numpy(keep).to(self.device)) as select:
            output = self.model(
                input_ids=ids,
                attention_mask=self._mask(layout.mask),
                position_ids=torch.from_numpy(layout.positions).to(self.device),
                past_key_values=cache,
                use_cache=cache is not None,
            )
        logits: torch.Tensor = select(output.logits)
        return logits

    def largest(self, logits: torch.Tensor) -> torch.Tensor:
        """The argmax of logits [N, V], the first of equal ones: int64 [N]."""
        if self.fused is None or not logits.is_contiguous():
            return logits.argmax(-1)
        return self.fused.kernels.largest(logits)

    def run_alone(self, tokens: Sequence[int], keep: Sequence[int]) -> torch.Tensor:
        """Logits [len(keep), vocab] after the tokens at `keep` of one sequence.

        A plain call of the model (no cache, mask or positions), which every causal LM allows.
        """
        with only_kept(self.model, torch.tensor(keep, device=self.device)) as select:
            ids = torch.tensor([tokens], device=self.device)
            logits: torch.Tensor = select(self.model(input_ids=ids, use_cache=False).logits)
        return logits

    def step(
        self, news: Sequence[Sequence[int]], lengths: Sequence[int], slots: SlotCache
    ) -> torch.Tensor:
        """Logits [N, vocab] after each of the new tokens `news` of the first slots, in a row.

        Slot i holds `lengths[i]` tokens; its new ones are written behind them.
        """
        counts = [len(tokens) for tokens in news]
        slots.reserve(0, max(map(sum, zip(lengths, counts, strict=True))))
        if not self.attention.possible:
            return self._step_by_count(news, lengths, slots)
        ids = [token for tokens in news for token in tokens]
        rows = [i for i, n in enumerate(counts) for _ in range(n)]
        places = [start + j for start, n in zip(lengths, counts, strict=True) for j in range(n)]
        where = torch.tensor([ids, rows, places], device=self.device)[:, None]
        step = Step(where[1, 0], where[2, 0], parts_of(lengths, counts))
        with self.attention.over(step):
            output = self.model(
                input_ids=where[0],
                # Four dimensions: transformers takes it as it is. Nothing reads it.
                attention_mask=torch.zeros(1, 1, 1, 1, dtype=self.model.dtype, device=self.device),
                position_ids=where[2],
                past_key_values=slots.at(where[1], where[2], max(lengths)),
                use_cache=True,
            )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _step_by_count(
        self, news: Sequence[Sequence[int]], lengths: Sequence[int], slots: SlotCache
    ) -> torch.Tensor:
        """`step` where attention takes a rectangle: a pass for each number of new tokens."""
        found: list[torch.Tensor] = [torch.empty(0)] * len(news)
        for count in sorted(set(map(len, news))):
            chosen = [i for i, tokens in enumerate(news) if len(tokens) == count]
            ids = torch.tensor([list(news[i]) for i in chosen], device=self.device)
            starts = torch.tensor([lengths[i] for i in chosen], device=self.device)
            positions = starts[:, None] + torch.arange(count, device=self.device)
            rows = torch.tensor(chosen, device=self.device)[:, None].expand_as(positions)
            width = max(lengths[i] for i in chosen) + count
            hidden = torch.arange(width, device=self.device) > positions[..., None]
            mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=self.device)
            output = self.model(
                input_ids=ids,
                attention_mask=mask.masked_fill_(hidden, self.lowest)[:, None],
                position_ids=positions,
                past_key_values=slots.at(rows, positions, width - count, width),
                use_cache=True,
            )
            for i, logits in zip(chosen, output.logits, strict=True):
                found[i] = logits
        return torch.cat(found)

    def _mask(self, look: Mask | None) -> torch.Tensor | None:
        if look is None:
            return None
        allowed = torch.from_numpy(look).to(self.device)
        mask = torch.zeros(allowed.shape, dtype=self.model.dtype, device=self.device)
        return mask.masked_fill_(~allowed, self.lowest)[:, None]


def crop(cache: DynamicCache, length: int) -> None:
    """Drop what a cache of plain layers holds beyond `length` positions."""
    for layer in cache.layers:
        if layer.keys is not None:
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
