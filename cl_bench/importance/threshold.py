"""Thresholds: quantiles of scores, of any number of entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cl_bench.costs.quantiles import quantile_place

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.models.layouts import Layout


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


def thresholds(
    scores: Mapping[str, Tensor], found: Mapping[str, Layout], alpha: float, scope: str
) -> dict[str, Tensor]:
    """The `alpha`-quantile of each weight's scores, to broadcast over them; an expert is a weight.

    `scope`: `tensor`, or `global` for one quantile of all scores together.
    """
    import torch

    if scope == "global":
        pooled = quantile(torch.cat([score.flatten().cpu() for score in scores.values()]), alpha)
        return {name: pooled.to(score.device) for name, score in scores.items()}
    by_name = {}
    for name, score in scores.items():
        if found[name].stack:
            own = [quantile(member.flatten(), alpha) for member in score]
            by_name[name] = torch.stack(own).view(-1, *[1] * (score.dim() - 1))
        else:
            by_name[name] = quantile(score.flatten(), alpha)
    return by_name
