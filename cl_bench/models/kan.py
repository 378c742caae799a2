"""Layers of a Kolmogorov-Arnold network (Liu et al. 2024, arXiv 2404.19756), by B-splines."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as f

ORDER = 3
"""Degree of the splines."""
NOISE = 0.1
"""Height of the curves that splines begin as, times the number of intervals."""


def splines(x: Tensor, grid: int, order: int = ORDER) -> Tensor:
    """The B-splines of degree `order` at x: [..., grid + 2 ORDER - order], by Cox and de Boor.

    The grid has `grid` equal intervals from -1 to 1 and ORDER more on either side, so that those of
    degree ORDER add up to 1 in [-1, 1] and fade to 0 outside of it.
    """
    width = 2 / grid
    knots = torch.arange(-ORDER, grid + ORDER + 1, dtype=x.dtype, device=x.device) * width - 1
    x = x.unsqueeze(-1)
    found = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
    for k in range(1, order + 1):
        rising = (x - knots[: -k - 1]) * found[..., :-1]
        falling = (knots[k + 1 :] - x) * found[..., 1:]
        found = (rising + falling) / (k * width)
    return found


class _Splines(Function):
    """`splines` that keeps its input alone for backward; float32 inside for 16-bit inputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.grid = grid
        return splines(_exact(x), grid).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The derivative of a spline is the difference of two of one degree less, over a width."""
        (x,) = ctx.saved_tensors
        lower = splines(_exact(x), ctx.grid, ORDER - 1)
        slope = (lower[..., :-1] - lower[..., 1:]) * (ctx.grid / 2)
        return (slope * grad).sum(-1).to(x.dtype), None


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class KANLayer(nn.Module):
    """y_j = sum_i base_ji silu(x_i) + scale_ji sum_g spline_jig B_g(x_i)."""

    def __init__(self, inputs: int, outputs: int, grid: int, zero: bool = False) -> None:
        super().__init__()
        self.grid = grid
        self.base = nn.Parameter(torch.empty(outputs, inputs))
        self.scale = nn.Parameter(torch.empty(outputs, inputs))
        self.spline = nn.Parameter(torch.empty(outputs, inputs * (grid + ORDER)))
        nn.init.kaiming_uniform_(self.base, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.scale, a=math.sqrt(5))
        curves = (torch.rand(grid + 1, inputs, outputs) - 0.5) * NOISE / grid
        at_knots = splines(torch.linspace(-1, 1, grid + 1, dtype=torch.float64), grid)
        fit = torch.linalg.pinv(at_knots).float()  # the smallest coefficients through all points
        self.spline.data.copy_(torch.einsum("gp,pio->oig", fit, curves).flatten(1))
        if zero:
            nn.init.zeros_(self.base)
            nn.init.zeros_(self.spline)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        found: Tensor = _Splines.apply(x, self.grid)  # type: ignore[no-untyped-call]
        scaled = self.spline.view(*self.scale.shape, -1) * self.scale.unsqueeze(-1)
        return f.linear(f.silu(x), self.base) + f.linear(found.flatten(-2), scaled.flatten(1))


class KANPair(nn.Module):
    """alpha / r * outer(inner(x)): LoRA's two matrices as KAN layers, through `r` units.

    `zero`: the outer layer gives 0 at first, as LoRA's does.
    """

    def __init__(self, layer: nn.Linear, r: int, alpha: float, grid: int, zero: bool) -> None:
        super().__init__()
        self.factor = alpha / r
        self.inner = KANLayer(layer.in_features, r, grid)
        self.outer = KANLayer(r, layer.out_features, grid, zero)

    def forward(self, x: Tensor) -> Tensor:
        """[..., Din] to [..., Dout]."""
        return self.factor * self.outer(self.inner(x))  # type: ignore[no-any-return]
