"""Causal attention as CPUs compute it best, for models that use torch's.

torch's fused CPU kernel multiplies small blocks in float32, its backward pass most of all: half a
training step at a length of 512 (docs/performance.md). Here queries go in chunks that see only the
keys up to their own end, and each chunk is a few large batched products in the model's dtype, at
the machine's full rate. The query heads of a group are rows of one product with their key head, so
keys and values are never repeated. Nothing of the size T x T is kept for backward: it is computed
again, chunk by chunk.

Rounding: scores are rounded to the model's dtype before the float32 softmax, as in transformers'
`eager` attention. Where matmul.py widens, everything runs in float32.

Transformers takes attention functions by name, so a model is switched by its configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from cl_bench.training.cpu import matmul

_NAME = "sdpa_on_cpu"
_CHUNK = 128
"""Queries per chunk: large products, and at 512 tokens three eighths of the square left out."""
_SILENT = {
    "dropout",
    "is_causal",
    "position_ids",
    "cache_position",
    "use_cache",
    "output_attentions",
}
"""Options that models pass along and that change nothing without a cache."""


class CausalAttention(Function):
    """softmax(scaling Q K' + mask) V; gradients of query, key and value."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
    ) -> Tensor:
        """query [B, H, T, D], key and value [B, G, T, D], G dividing H -> [B, T, H, D].

        `mask` bool [B or 1, 1, T, T], True where a query may look, nowhere past itself; None is
        plain causal.
        """
        batch, heads, length, size = query.shape
        groups = key.shape[1]
        k, v = (tensor.reshape(batch * groups, length, size) for tensor in (key, value))
        out = query.new_empty(batch, length, heads, size)
        for chunk in _chunks(length):
            seen = slice(0, chunk.stop)
            rows = _rows(query[:, :, chunk], groups)
            share = _softmax(rows, k[:, seen], _bias(mask, chunk, query), scaling)
            part = torch.bmm(share, v[:, seen])
            out[:, chunk] = part.view(batch, heads, -1, size).transpose(1, 2)
        ctx.save_for_backward(query, k, v, mask)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of (query, key, value, -, -)."""
        query, k, v, mask = ctx.saved_tensors
        batch, heads, length, size = query.shape
        groups = len(k) // batch
        grad = grad.transpose(1, 2)
        dq = torch.empty_like(query)
        # Several chunks add to a key: in float32, as one product would.
        wide = query.dtype if query.dtype == torch.float64 else torch.float32
        dk, dv = (torch.zeros(k.shape, dtype=wide, device=k.device) for _ in range(2))
        for chunk in _chunks(length):
            seen = slice(0, chunk.stop)
            rows, g = (_rows(tensor[:, :, chunk], groups) for tensor in (query, grad))
            share = _softmax(rows, k[:, seen], _bias(mask, chunk, query), ctx.scaling)
            dshare = torch.bmm(g, v[:, seen].transpose(1, 2))
            dscores = torch.ops.aten._softmax_backward_data(dshare, share, -1, query.dtype)
            part = torch.bmm(dscores, k[:, seen]).mul_(ctx.scaling)
            dq[:, :, chunk] = part.view(batch, heads, -1, size)
            dk[:, seen] += torch.bmm(dscores.transpose(1, 2), rows)
            dv[:, seen] += torch.bmm(share.transpose(1, 2), g)
        shape = (batch, groups, length, size)
        dk, dv = (d.to(query.dtype).view(shape) for d in (dk.mul_(ctx.scaling), dv))
        return dq, dk, dv, None, None


def _chunks(length: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, length)) for start in range(0, length, _CHUNK)]


def _rows(tensor: Tensor, groups: int) -> Tensor:
    """[B, H, n, D], the heads of a group one below the other: [B * G, H / G * n, D]."""
    return tensor.reshape(len(tensor) * groups, -1, tensor.shape[3])


def _bias(mask: Tensor | None, chunk: slice, like: Tensor) -> Tensor:
    """What is added to the scores of the last columns: [B or 1, 1, n, m], 0 or the lowest number.

    Not -inf: a padded query that sees nothing must not become NaN.
    """
    n = chunk.stop - chunk.start
    if mask is None:
        hidden = torch.ones(1, 1, n, n, dtype=torch.bool, device=like.device).triu_(1)
    else:
        hidden = ~mask[:, :, chunk, : chunk.stop]
    lowest = torch.finfo(like.dtype).min
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(
        hidden, lowest
    )


def _softmax(rows: Tensor, keys: Tensor, bias: Tensor, scaling: float) -> Tensor:
    """softmax(scaling rows keys' + bias): rows [B * G, R * n, D], keys [B * G, e, D]."""
    scores = torch.bmm(rows, keys.transpose(1, 2)).mul_(scaling)
    n, columns = bias.shape[-2:]
    # Every head of a sample has the same mask.
    view = scores.view(bias.shape[0], -1, n, scores.shape[2])[..., -columns:]
    view += bias
    return torch.softmax(scores, -1)


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
    """query [B, H, T, D], key and value [B, G, T, D] -> [B, T, H, D]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    q, k, v = (matmul.widen(tensor) for tensor in (query, key, value))
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    others = [options[name] for name in options.keys() - _SILENT]
    plain = dropout == 0.0 and all(option is None for option in others)
    if plain and causal and _is_causal(q, k, v, attention_mask):
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        out: Tensor = CausalAttention.apply(  # type: ignore[no-untyped-call]
            q, k, v, attention_mask, scale
        )
    else:
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.to(q.dtype)
        out, _ = sdpa_attention_forward(
            module, q, k, v, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    return out.to(query.dtype), None


def _is_causal(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether queries and keys are the same positions and no query looks ahead."""
    length = query.shape[2]
    if torch.compiler.is_compiling() or length != key.shape[2] or key.shape != value.shape:
        return False
    if mask is None:
        return True
    if mask.dtype != torch.bool or mask.shape[1] != 1 or mask.shape[-2:] != (length, length):
        return False
    return not bool(mask.triu(1).any())


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
