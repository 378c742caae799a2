"""Squared per-sample weight gradients of a linear layer, summed over samples and aggregated.

For one sample, y = x W' with X [T, Din] and G = dL/dY [T, Dout]; the gradient is P = G'X.

    sum_c P_rc^2 = [G' K G]_rr = sum_t (G * (K G))_tr   with the Gram matrix K = X X'
    sum_r P_rc^2 = [X' H X]_cc = sum_t (X * (H X))_tc   with H = G G'

Neither needs P. K is symmetric, so its lower blocks suffice, and layers that read the same X share
it. Where T is large against the layer, P itself is cheaper (one sample at a time, so that it stays
in the cache); `gram_is_cheaper` decides. Elements always need P.

Shapes: x [B, T, Din], g [B, T, Dout], of one dtype; padded positions of g are zero. Sums are kept
in float32 at least.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Rows of the Gram matrix per block.
_BLOCK = 128
# Entries of P computed at a time for single elements: 1 MB of float32 stays in the cache.
_CHUNK = 2**18
# What moving one entry through the caches costs beside its products, in FLOPs (measured).
_MOVE = 32


@dataclass(frozen=True)
class Gram:
    """Lower block rows of A A' [B, T, T]: block i is [B, n, end], left of the diagonal doubled."""

    blocks: list[Tensor]

    @classmethod
    def of(cls, a: Tensor) -> Gram:
        """The Gram matrix over positions of a [B, T, D]."""
        blocks = []
        for start in range(0, a.shape[1], _BLOCK):
            end = min(start + _BLOCK, a.shape[1])
            block = torch.bmm(a[:, start:end], a[:, :end].transpose(1, 2))
            block[:, :, :start] *= 2
            blocks.append(block)
        return cls(blocks)

    def diagonal_form(self, v: Tensor) -> Tensor:
        """The diagonal of V' (A A') V, summed over samples: v [B, T, D] -> [D]."""
        total = v.new_zeros(v.shape[2], dtype=_wide(v))
        start = 0
        for block in self.blocks:
            end = start + block.shape[1]
            product = torch.bmm(block, v[:, :end]).mul_(v[:, start:end])
            total += product.sum((0, 1), dtype=total.dtype)
            start = end
        return total


def _wide(tensor: Tensor) -> torch.dtype:
    """What sums are kept in: float32, float64 for float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def gram_is_cheaper(length: int, inner: int, outer: int, sharers: int = 1) -> bool:
    """Whether the Gram route costs less than P for a layer of [outer, inner].

    `inner` is the dimension summed over (Din for rows, Dout for columns), `sharers` how many layers
    use the Gram matrix.
    """
    blocks = -(-length // _BLOCK)
    lower = (blocks + 1) / (2 * blocks)
    gram = 2 * length**2 * lower * (inner / sharers + outer) + _MOVE * length * outer
    direct = 2 * length * inner * outer + _MOVE * inner * outer
    return gram < direct


def direct_rows(x: Tensor, g: Tensor) -> Tensor:
    """sum over samples and columns of P^2 -> [Dout], by computing P of each sample."""
    total = g.new_zeros(g.shape[2], dtype=_wide(g))
    for inputs, gradients in zip(x, g, strict=True):
        total += torch.linalg.vector_norm(
            gradients.t() @ inputs, dim=1, dtype=total.dtype
        ).square_()
    return total


def add_elements(scores: Tensor, x: Tensor, g: Tensor) -> None:
    """scores [Dout, Din] += sum over samples of P^2."""
    rows = max(1, _CHUNK // scores.shape[1])
    scratch = x.new_empty((rows, scores.shape[1]))
    for start in range(0, scores.shape[0], rows):
        part = scores[start : start + rows]
        for inputs, gradients in zip(x, g, strict=True):
            columns = gradients[:, start : start + rows]
            product = torch.mm(columns.t(), inputs, out=scratch[: len(part)])
            part.addcmul_(product, product)
