"""Tokens drawn from a model's distribution, each by a number of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Drawing:
    """Tokens from the softmax of logits over a temperature above 0."""

    point: Callable[[int, int], float]
    """The number in 0-1 of a request's token: which request, and which of its new tokens."""
    temperature: float

    def points(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """float64 [N], of (request, place)."""
        return torch.tensor([self.point(*place) for place in places], dtype=torch.float64)

    def of(self, request: int) -> Drawing:
        """The same where this is the only request."""
        return Drawing(lambda _, place: self.point(request, place), self.temperature)


def tokens_at(logits: Tensor, points: Tensor, temperature: float) -> Tensor:
    """Where the cumulated probabilities of logits [N, V] pass the points [N] in 0-1: int64 [N]."""
    fine = logits.amax(-1).isfinite()  # else the argmax, which shows that they are no numbers
    total = (logits.double() / temperature).softmax(-1).cumsum(-1)
    at = points.to(total).unsqueeze(-1) * total[:, -1:]
    drawn = torch.searchsorted(total, at, right=True).squeeze(-1)
    return torch.where(fine, drawn.clamp_(max=logits.shape[-1] - 1), logits.argmax(-1))
