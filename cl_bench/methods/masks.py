"""What scores above a threshold select, and updates of which a share is taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.models.layouts import Layout
    from cl_bench.training.update_plan import Selection


def share_of_step(score: Tensor, threshold: Tensor, soft: bool) -> Tensor:
    """What share of its update each score's entries take, 0 to 1.

    Hard: 1 above the threshold, else 0. Soft: `min(1, score / threshold)`, for scores from 0 up.
    """
    import torch

    above = (score > threshold).to(score.dtype)
    if not soft:
        return above
    ratio = score / threshold.clamp(min=torch.finfo(score.dtype).tiny)
    return torch.where(above > 0, above, ratio)


def trained_share(
    shapes: Mapping[str, tuple[int, ...]], selections: Mapping[str, Selection]
) -> float:
    """Share of the entries of scored parameters that this stage trains."""
    from cl_bench.training.update_plan import Columns, Elements, Rows

    trained = 0
    for name, selection in selections.items():
        if isinstance(selection, Rows):
            trained += selection.index.numel() * shapes[name][-1]
        elif isinstance(selection, Columns):
            trained += selection.index.numel() * shapes[name][-2]
        elif isinstance(selection, Elements):
            trained += int(selection.mask.sum())
    return trained / max(sum(math.prod(shape) for shape in shapes.values()), 1)


def score_shapes(
    model: Any, names: Iterable[str], found: Mapping[str, Layout], granularity: str
) -> dict[str, tuple[int, ...]]:
    """Shapes of the scores of these parameters."""
    return {
        name: found[name].score_shape(tuple(model.get_parameter(name).shape), granularity)
        for name in names
    }


class PartialSteps:
    """Takes of every update a share, entry by entry: AdamW divides a factor of gradients out again.

    `shares`: tensors that broadcast over the trained parameters of these names, 0 to 1. An entry of
    share 0 keeps its bits, whatever the optimiser remembers of it.
    """

    def __init__(self) -> None:
        self.shares: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    def begin(self, masters: Mapping[str, Tensor]) -> None:
        """Before the optimiser's step."""
        self._before = {n: masters[n].clone() for n in self.shares.keys() & masters.keys()}

    def end(self, masters: Mapping[str, Tensor]) -> bool:
        """After it: goes back where a share below 1 was wanted. Whether there was anything."""
        import torch

        for name, before in self._before.items():
            share = self.shares[name].to(before.dtype).expand_as(before)
            masters[name].copy_(torch.lerp(before, masters[name], share))
        done, self._before = bool(self._before), {}
        return done

    def mean(self) -> float:
        """The mean share over all entries."""
        entries = sum(share.numel() for share in self.shares.values())
        return sum(float(share.double().sum()) for share in self.shares.values()) / max(entries, 1)
