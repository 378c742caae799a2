"""Scaled dot-product attention in float32 for half-precision models on CPUs that widen.

torch's CPU kernel is several times slower in bf16 than in float32 where matmul.py widens, its
backward pass most of all. Transformers takes attention functions by name, so a model is switched
by its configuration and switched back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from cl_bench.training import matmul

_NAME = "sdpa_widened"


def _widened(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    wide = (matmul.widen(query), matmul.widen(key), matmul.widen(value))
    out, _ = sdpa_attention_forward(module, *wide, attention_mask, **options)
    return out.to(query.dtype), None


@contextmanager
def widened_attention(model: nn.Module) -> Iterator[None]:
    """While open, a half-precision `model` that uses `sdpa` on such a CPU computes it in float32.

    Anything else (other attention, other dtypes, other devices) is left as it is.
    """
    config = getattr(model, "config", None)
    slow = any(matmul.widens(parameter) for parameter in model.parameters())
    if not slow or getattr(config, "_attn_implementation", None) != "sdpa":
        yield
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, _widened)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    config._attn_implementation = _NAME  # type: ignore[union-attr]
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"  # type: ignore[union-attr]
