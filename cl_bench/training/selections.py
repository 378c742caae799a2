"""What a stage trained, kept small beside it: which rows, columns or entries, and what ranked them.

One safetensors file a stage. A choice is a bit (8 in a byte, numpy's order), a score half a number
(float16) over the largest of its weight. `cl-bench inspect` reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cl_bench.training.update_plan import Columns, Elements, Frozen, Rows, UpdatePlan

KINDS = ("full", "frozen", "rows", "columns", "entries")


@dataclass(frozen=True)
class Kept:
    """Of one parameter: its shape, what was selected, and scores by kind.

    `chosen` bool [units]: rows or columns counted through a stack as in `Rows`, or all entries in
    order; empty for `full` and `frozen`. `scores` float32 [units] by `rows`, `columns` or
    `entries` (of vectors), over their largest.
    """

    kind: str
    shape: tuple[int, ...]
    chosen: Tensor
    scores: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def entries(self) -> int:
        """How many entries the parameter has."""
        return math.prod(self.shape)

    @property
    def trained(self) -> int:
        """How many of them were trained."""
        if self.kind in ("full", "frozen"):
            return self.entries if self.kind == "full" else 0
        return int(self.chosen.sum()) * (self.entries // max(self.chosen.numel(), 1))


def small_scores(scores: Mapping[str, Tensor], model: torch.nn.Module) -> dict[str, Tensor]:
    """Scores as they are kept, by `<kind>/<parameter>`: float16 on the CPU.

    Those of single entries of a matrix, which are as many as its entries, are summed over its rows
    and over its columns.
    """
    found: dict[str, Tensor] = {}
    for name, score in scores.items():
        shape = tuple(model.get_parameter(name).shape)
        for kind, value in _by_kind(score, shape).items():
            largest = value.abs().max().clamp_min(torch.finfo(value.dtype).tiny)
            found[f"{kind}/{name}"] = (value / largest).to("cpu", torch.float16)
    return found


def _by_kind(score: Tensor, shape: tuple[int, ...]) -> dict[str, Tensor]:
    score, double = score.detach(), torch.float64
    if len(shape) < 2:
        return {"entries": score.flatten().to(double)}
    if tuple(score.shape) == shape:
        sums = {"rows": score.sum(-1, dtype=double), "columns": score.sum(-2, dtype=double)}
        return {kind: value.flatten() for kind, value in sums.items()}
    kind = "rows" if score.numel() == math.prod(shape[:-1]) else "columns"
    return {kind: score.flatten().to(double)}


def selection_tensors(
    plan: UpdatePlan, scores: Mapping[str, Tensor], model: torch.nn.Module
) -> dict[str, Tensor]:
    """The file's tensors; `scores`: of `small_scores`."""
    found = {f"score/{name}": value for name, value in scores.items()}
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        kind, chosen = _chosen(plan, name, shape)
        bits = torch.from_numpy(np.packbits(chosen.cpu().numpy()))
        found[f"{kind}/{name}"] = bits
        found[f"shape/{name}"] = torch.tensor(shape, dtype=torch.int64)
    return found


def _chosen(plan: UpdatePlan, name: str, shape: tuple[int, ...]) -> tuple[str, Tensor]:
    selection = plan.of(name)
    if isinstance(selection, Rows | Columns):
        rows = isinstance(selection, Rows)
        chosen = torch.zeros(_units("rows" if rows else "columns", shape), dtype=torch.bool)
        chosen[selection.index.cpu()] = True
        return ("rows" if rows else "columns"), chosen
    if isinstance(selection, Elements):
        return "entries", selection.mask.flatten()
    kind = "frozen" if isinstance(selection, Frozen) else "full"
    return kind, torch.zeros(0, dtype=torch.bool)


def _units(kind: str, shape: tuple[int, ...]) -> int:
    if kind in ("full", "frozen"):
        return 0
    along = {"rows": -1, "columns": -2}.get(kind)
    return math.prod(shape) // (1 if along is None else shape[along])


def kept_selections(tensors: Mapping[str, Tensor]) -> dict[str, Kept]:
    """By parameter what `selection_tensors` wrote."""
    scores: dict[str, dict[str, Tensor]] = {}
    found: dict[str, tuple[str, Tensor]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for key, value in tensors.items():
        kind, name = key.split("/", 1)
        if kind == "score":
            of, name = name.split("/", 1)
            scores.setdefault(name, {})[of] = value.float()
        elif kind == "shape":
            shapes[name] = tuple(value.tolist())
        else:
            found[name] = kind, value
    return {
        name: Kept(
            kind,
            shapes[name],
            _unpacked(bits, _units(kind, shapes[name])),
            scores.get(name, {}),
        )
        for name, (kind, bits) in sorted(found.items())
    }


def _unpacked(bits: Tensor, count: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool))
