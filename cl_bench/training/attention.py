"""Scaled dot-product attention as CPUs compute it best, for models that use torch's.

Two things, both measured in docs/performance.md. Where matmul.py widens, torch's CPU kernel is
several times slower in half precision than in float32, its backward pass most of all: it runs in
float32. And the kernel computes the whole square of scores wherever a mask is given or a sequence
fits one of its blocks: queries go in chunks that see only the keys up to their own end.

Transformers takes attention functions by name, so a model is switched by its configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.training import matmul

_NAME = "sdpa_on_cpu"
# Queries per chunk. Without a mask the kernel itself leaves keys out from 768 positions on.
_CHUNK, _KERNEL_SKIPS = 128, 768


def _on_cpu(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query [B, H, T, D], key and value [B, H_kv, T, D] -> [B, T, H, D]."""
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    wide = [matmul.widen(tensor) for tensor in (query, key, value)]
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.to(wide[0].dtype)
    plain = dropout == 0.0 and not any(
        options.get(name) is not None for name in ("softcap", "position_bias", "cache")
    )
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if plain and causal and _worth_chunks(query, key, attention_mask):
        groups = query.shape[1] // key.shape[1]
        keys, values = repeat_kv(wide[1], groups), repeat_kv(wide[2], groups)
        out = _causal_chunks(wide[0], keys, values, attention_mask, scaling)
    else:
        out, _ = sdpa_attention_forward(
            module, *wide, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    return out.to(query.dtype), None


def _worth_chunks(query: Tensor, key: Tensor, mask: Tensor | None) -> bool:
    """Whether chunks leave keys out, and nothing that a query may see."""
    length = query.shape[2]
    if length != key.shape[2] or length < 3 * _CHUNK or torch.compiler.is_compiling():
        return False
    if mask is None:
        return length < _KERNEL_SKIPS
    if mask.dtype != torch.bool or mask.shape[-2:] != (length, length):
        return False
    return not any(bool(mask[..., s : s + _CHUNK, s + _CHUNK :].any()) for s in _starts(length))


def _starts(length: int) -> range:
    return range(0, length, _CHUNK)


def _causal_chunks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    length = query.shape[2]
    outputs = []
    for start in _starts(length):
        end = min(start + _CHUNK, length)
        if mask is None:
            seen = torch.ones(end - start, end, dtype=torch.bool).tril_(start)
        else:
            seen = mask[..., start:end, :end]
        outputs.append(
            nn.functional.scaled_dot_product_attention(
                query[:, :, start:end], key[:, :, :end], value[:, :, :end], seen, scale=scaling
            ).transpose(1, 2)
        )
    return torch.cat(outputs, 1)


@contextmanager
def cpu_attention(model: nn.Module) -> Iterator[None]:
    """While open, a CPU `model` that uses `sdpa` computes it as above; others do not change."""
    config: Any = getattr(model, "config", None)
    first = next(model.parameters(), None)
    on_cpu = first is not None and first.device.type == "cpu"
    if not on_cpu or getattr(config, "_attn_implementation", None) != "sdpa":
        yield
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, _on_cpu)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
