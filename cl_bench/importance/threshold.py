"""Quantiles of scores, of any number of entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def quantile(values: Tensor, q: float) -> Tensor:
    """Linear-interpolation quantile (scalar tensor) of a 1-D tensor, `0 <= q <= 1`.

    `torch.quantile` refuses more than 2**24 entries, which single matrices of large models have.
    """
    position = q * (values.numel() - 1)
    low = int(position)
    lower = values.kthvalue(low + 1).values
    if low + 1 == values.numel():
        return lower
    upper = values.kthvalue(low + 2).values
    return lower + (upper - lower) * (position - low)
