"""Quantiles of scores, of any number of entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_bench.costs.quantiles import quantile_place

if TYPE_CHECKING:
    from torch import Tensor


def quantile(values: Tensor, q: float) -> Tensor:
    """Linear-interpolation quantile (scalar tensor) of a 1-D tensor, `0 <= q <= 1`.

    `torch.quantile` refuses more than 2**24 entries, which single matrices of large models have.
    """
    low, further = quantile_place(values.numel(), q)
    lower = values.kthvalue(low + 1).values
    if low + 1 == values.numel():
        return lower
    upper = values.kthvalue(low + 2).values
    return lower + (upper - lower) * further
