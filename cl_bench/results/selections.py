"""What the stages of a run trained: shares by layer and module, and how alike two stages are."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from cl_bench.errors import RunError
from cl_bench.models.checkpoints import load_tensors
from cl_bench.store.folders import RunFolder, StageFolder, there
from cl_bench.store.seals import check_files, read_sealed
from cl_bench.training.kept_scores import sampled_entries
from cl_bench.training.selections import Kept, kept_selections

Selections = Mapping[str, Kept]
"""Of a stage, by parameter."""
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Alike:
    """How alike two stages are in one respect, and what chance alone would give; 0 to 1.

    `value` None: nothing to compare. Scores: cosine (`value`, `chance`) and rank correlation, whose
    chance is 0.
    """

    value: float | None
    chance: float | None
    ranks: float | None = None


_UNKNOWN = Alike(None, None)


def selections_of(run: RunFolder) -> dict[str, Selections]:
    """By stage folder's name, of the stages that kept one. Raises RunError where it is damaged."""
    found: dict[str, Selections] = {}
    for stage in run.stages():
        if there(stage.selection_file):
            _check(stage)
            try:
                found[stage.path.name] = kept_selections(load_tensors(stage.selection_file))
            except (KeyError, ValueError) as error:
                raise RunError(f"{stage.selection_file}: not a selection ({error})") from error
    return found


def _check(stage: StageFolder) -> None:
    if there(stage.training_file):
        remedy = "restore it from a copy, or delete it: only `cl-bench inspect` and figures read it"
        files = read_sealed(stage.training_file, remedy, {"files": dict})["files"]
        check_files(stage.path, files, [stage.selection_file.name], remedy)


def place_of(name: str) -> tuple[str, str]:
    """Layer and module type of a parameter: (`3`, `mlp.up_proj`); (``, name) outside of layers."""
    found = _LAYER.search(name)
    plain = name.removesuffix(".weight")
    return (found[1], plain[found.end() :]) if found else ("", plain)


def shares(selections: Selections, by: int) -> dict[str, float]:
    """Trained share of the entries of each layer (`by` 0) or module type (1), in model's order."""
    trained: dict[str, int] = defaultdict(int)
    entries: dict[str, int] = defaultdict(int)
    for name, kept in selections.items():
        place = place_of(name)[by] or "outside of layers"
        trained[place] += kept.trained
        entries[place] += kept.entries
    order = sorted(entries, key=lambda place: (not place.isdecimal(), place.zfill(6)))
    return {place: trained[place] / max(entries[place], 1) for place in order}


def kinds_of(stages: Iterable[Selections]) -> list[str]:
    """Of rows, columns and entries those that some stage chose among."""
    used = {kept.kind for stage in stages for kept in stage.values()}
    return [kind for kind in ("rows", "columns", "entries") if kind in used]


def scored_kinds(stages: Iterable[Selections]) -> list[str]:
    """Of rows, columns and entries those that some stage has scores of."""
    used = {kind for stage in stages for kept in stage.values() for kind in kept.scores}
    return [kind for kind in ("rows", "columns", "entries") if kind in used]


def masks_alike(first: Selections, second: Selections, kind: str) -> Alike:
    """Jaccard index of what both chose, over all parameters in which both chose among `kind`.

    Chance: sets of the same sizes in every parameter, drawn blindly; the expected intersection over
    the union that it leaves.
    """
    both = expected = sizes = 0.0
    for name, one in first.items():
        other = second.get(name)
        if other is None or one.kind != kind or other.kind != kind:
            continue
        if one.chosen.numel() != other.chosen.numel():
            continue
        a, b = int(one.chosen.sum()), int(other.chosen.sum())
        both += int((one.chosen & other.chosen).sum())
        expected += a * b / max(one.chosen.numel(), 1)
        sizes += a + b
    if not sizes:
        return _UNKNOWN
    return Alike(both / (sizes - both), expected / (sizes - expected))


def scores_alike(first: Selections, second: Selections, kind: str) -> Alike:
    """Cosine and rank correlation of two stages' scores: means over parameters, by their units.

    Chance of the cosine: the scores of one stage in any order.
    """
    cosine = chance = ranks = weight = 0.0
    for name, one in first.items():
        other = second.get(name)
        a, b = one.scores.get(kind), None if other is None else other.scores.get(kind)
        if a is None or b is None or len(a) != len(b) or len(a) < 2:
            continue
        a, b = a.double(), b.double()
        norms = float(a.norm() * b.norm())
        if not norms:
            continue
        units = len(a)
        cosine += units * float(a @ b) / norms
        chance += units * (units * float(a.mean() * b.mean()) / norms)
        ranks += units * _correlation(_ranks(a), _ranks(b))
        weight += units
    if not weight:
        return _UNKNOWN
    return Alike(cosine / weight, chance / weight, ranks / weight)


@dataclass(frozen=True)
class Halves:
    """How far two random halves of a stage's examples agree.

    `masks`: of what either half's scores would choose, as many of each weight (of each expert) as
    the stage chose. `ranks`: rank correlation of the halves' scores, a mean over parameters by
    their units. None: not kept, or nothing was chosen.
    """

    masks: Alike
    ranks: float | None

    @property
    def reliability(self) -> float | None:
        """The rank correlation of two samples as large as the stage's, by Spearman and Brown."""
        r = self.ranks
        return None if r is None or r <= -1 else 2 * r / (1 + r)


def halves_alike(stage: Selections, kind: str) -> Halves:
    """Of scores of `kind` and of the parameters that were chosen among `kind`.

    Of a matrix's single entries those of the sample that is kept.
    """
    both = expected = sizes = ranks = weight = 0.0
    for name, kept in stage.items():
        pair = kept.halves.get(kind)
        if pair is None or pair.shape[1] < 2:
            continue
        first, second = pair.double()
        ranks += len(first) * _correlation(_ranks(first), _ranks(second))
        weight += len(first)
        if kept.kind != kind:
            continue
        sampled = kind == "entries" and len(first) < kept.entries
        chosen = kept.chosen[sampled_entries(name, kept.entries)] if sampled else kept.chosen
        groups = kept.shape[0] if len(kept.shape) > 2 and not sampled else 1
        parts = (value.view(groups, -1) for value in (chosen, first, second))
        for wanted, one, other in zip(*parts, strict=True):
            count = int(wanted.sum())
            both += len(_highest(one, count) & _highest(other, count))
            expected += count * count / len(wanted)
            sizes += 2 * count
    jaccard = Alike(both / (sizes - both), expected / (sizes - expected)) if sizes else _UNKNOWN
    return Halves(jaccard, ranks / weight if weight else None)


def ceiling(first: Halves, second: Halves) -> float | None:
    """The highest rank correlation that scores so reliable can be expected to have."""
    a, b = first.reliability, second.reliability
    return None if a is None or b is None or min(a, b) <= 0 else math.sqrt(a * b)


def _highest(scores: Tensor, count: int) -> set[int]:
    return set(scores.argsort(descending=True, stable=True)[:count].tolist())


def _ranks(values: Tensor) -> Tensor:
    """From 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values.numpy(), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts + 1) / 2)[inverse.reshape(-1)]
    return torch.from_numpy(ranks)


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms and math.isfinite(norms) else 0.0


def pairs(stages: Mapping[str, Selections]) -> list[tuple[str, str]]:
    """Every two stages, in order."""
    return list(combinations(stages, 2))
