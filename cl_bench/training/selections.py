"""What a stage trained, kept small beside it: which rows, columns or entries, and what ranked them.

One safetensors file a stage. A choice is a bit (8 in a byte, numpy's order); scores are those of
kept_scores.py. `cl-bench inspect` reads them.
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
    `entries` (all of a vector, `sampled_entries` of a matrix), over their largest; `halves` the
    same [2, units] of either half of the examples.
    """

    kind: str
    shape: tuple[int, ...]
    chosen: Tensor
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    halves: Mapping[str, Tensor] = field(default_factory=dict)

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


def selection_tensors(
    plan: UpdatePlan, scores: Mapping[str, Tensor], model: torch.nn.Module
) -> dict[str, Tensor]:
    """The file's tensors: what the plan chose, and what it was ranked by (`score_tensors`)."""
    found = dict(scores)
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        kind, chosen = _chosen(plan, name, shape)
        found |= choice_tensors(name, shape, kind, chosen)
        if kind in ("rows", "columns"):
            _as_chosen(found, name, kind)
    return found


def choice_tensors(
    name: str, shape: tuple[int, ...], kind: str, chosen: Tensor
) -> dict[str, Tensor]:
    """Those of one parameter. `chosen`: bool, of as many rows, columns or entries as it has."""
    bits = torch.from_numpy(np.packbits(chosen.flatten().cpu().numpy()))
    return {f"{kind}/{name}": bits, f"shape/{name}": torch.tensor(shape, dtype=torch.int64)}


def _as_chosen(found: dict[str, Tensor], name: str, kind: str) -> None:
    """Scores of a square matrix, of which the shape does not tell, are of what was chosen among."""
    other = "columns" if kind == "rows" else "rows"
    for what in ("score", "half"):
        if f"{what}/{kind}/{name}" not in found and f"{what}/{other}/{name}" in found:
            found[f"{what}/{kind}/{name}"] = found.pop(f"{what}/{other}/{name}")


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
    """By parameter what was written; one of which only scores were kept was trained in full."""
    scores: dict[str, dict[str, Tensor]] = {}
    halves: dict[str, dict[str, Tensor]] = {}
    found: dict[str, tuple[str, Tensor]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for key, value in tensors.items():
        kind, name = key.split("/", 1)
        if kind in ("score", "half"):
            of, name = name.split("/", 1)
            own = scores if kind == "score" else halves
            own.setdefault(name, {})[of] = value.float()
        elif kind == "shape":
            shapes[name] = tuple(value.tolist())
        else:
            found[name] = kind, value
    nothing = "full", torch.zeros(0, dtype=torch.uint8)
    kept = {}
    for name in sorted(shapes):
        kind, bits = found.get(name, nothing)
        chosen = _unpacked(bits, _units(kind, shapes[name]))
        ranked = scores.get(name, {}), halves.get(name, {})
        kept[name] = Kept(kind, shapes[name], chosen, *ranked)
    return kept


def _unpacked(bits: Tensor, count: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool))
