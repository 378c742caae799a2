"""Hidden states of a model on fixed texts, and how far they are from another model's, by layer.

The states are the inputs of the layers (the residual stream: embeddings first) and what the head
reads, which is behind the last norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cl_bench.evaluation.probes.kl import Text
from cl_bench.evaluation.shared_prefix.packed_model import evaluating


@dataclass(frozen=True)
class Drift:
    """Of one layer, over positions; NaN where states are not finite.

    `cosine`: mean of 1 - cos, 0 to 2. `relative`: mean of |y - x| / |x|. `cka`: linear CKA of
    Kornblith et al. 2019 (arXiv 1905.00414), 0 to 1, 1 for states that are equal up to a rotation,
    one factor and a shift. It is their plain estimate, which is too high for few positions.
    """

    cosine: float
    relative: float
    cka: float


def hidden_states(model: nn.Module, texts: Iterable[Text]) -> list[Tensor]:
    """States [positions of all texts, D] by layer, float32 on the CPU (float64 of such models).

    Each text is run alone, so that the states depend on nothing else.
    """
    found: list[list[Tensor]] = []
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad():
        for text in texts:
            ids = torch.tensor([text.ids], device=device)
            outputs = model(input_ids=ids, output_hidden_states=True, use_cache=False)
            places = torch.tensor(text.positions, device=device)
            states = [state[0, places].to("cpu") for state in outputs.hidden_states]
            found.append([s.to(torch.promote_types(s.dtype, torch.float32)) for s in states])
    return [torch.cat(layer) for layer in zip(*found, strict=True)]


def drift(before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Drift]:
    """By layer, of states as `hidden_states` gives them, of as many layers. In float64."""
    return [_drift(x.double(), y.double()) for x, y in zip(before, after, strict=True)]


def _drift(x: Tensor, y: Tensor) -> Drift:
    if not bool(x.isfinite().all() and y.isfinite().all()):
        return Drift(math.nan, math.nan, math.nan)
    tiny = torch.finfo(x.dtype).tiny
    sizes = x.norm(dim=1).clamp_min(tiny), y.norm(dim=1).clamp_min(tiny)
    cosine = (x * y).sum(1) / sizes[0] / sizes[1]
    relative = (y - x).norm(dim=1) / sizes[0]
    return Drift(float((1 - cosine).mean()), float(relative.mean()), linear_cka(x, y))


def linear_cka(x: Tensor, y: Tensor) -> float:
    """|Y'X|^2 / (|X'X| |Y'Y|) of centred columns, by the products of positions [N, N]."""
    x, y = x - x.mean(0), y - y.mean(0)
    one, other = x @ x.T, y @ y.T
    size = float(one.norm() * other.norm())
    return float((one * other).sum()) / size if size else math.nan
