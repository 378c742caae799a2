"""What ranked a stage's parameters, kept small beside it: sums, and samples of single entries.

Of every score a number (float16, over the largest of its weight), and two more of the same made of
either half of the examples, which say how far scores agree with themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from cl_bench.costs.kept_selection import SAMPLE
from cl_bench.seeds import derive_seed
from cl_bench.training.sharding import whole

SmallScores = dict[str, Tensor]
"""By `<kind>/<parameter>`, kind `rows`, `columns` or `entries`: float64 [units]."""


def small_scores(scores: Mapping[str, Tensor], model: torch.nn.Module) -> SmallScores:
    """Scores in the shape of a parameter's rows, columns or entries, as they are kept.

    Of single entries of a matrix, which are as many as its entries, the sums over its rows and over
    its columns, and a sample (`sampled_entries`). What is small already is given back.
    """
    found: SmallScores = {}
    for name, score in scores.items():
        if "/" in name:
            found[name] = score
            continue
        score = whole(score)  # one at a time, where it is split over processes
        shape = tuple(model.get_parameter(name).shape)
        for kind, value in _by_kind(name, score.detach(), shape).items():
            found[f"{kind}/{name}"] = value
    return found


def _by_kind(name: str, score: Tensor, shape: tuple[int, ...]) -> dict[str, Tensor]:
    double = torch.float64
    if len(shape) < 2:
        return {"entries": score.flatten().to(double, copy=True)}
    if tuple(score.shape) == shape:
        places = sampled_entries(name, score.numel()).to(score.device)
        return {
            "rows": score.sum(-1, dtype=double).flatten(),
            "columns": score.sum(-2, dtype=double).flatten(),
            "entries": score.flatten()[places].to(double),
        }
    rows = score.numel() == math.prod(shape[:-1])
    if score.dim() == len(shape) and score.shape[-2] == 1:
        rows = False  # what broadcasts over the parameter says itself which it is
    return {"rows" if rows else "columns": score.flatten().to(double, copy=True)}


def sampled_entries(name: str, count: int) -> Tensor:
    """Places of at most `SAMPLE` of a parameter's entries, in order: the same in every stage."""
    if count <= SAMPLE:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(derive_seed("sampled entries", name))
    if count < 64 * SAMPLE:
        return torch.randperm(count, generator=generator)[:SAMPLE].sort().values
    drawn = torch.randint(count, (SAMPLE,), generator=generator).tolist()
    return torch.tensor(sorted(set(drawn)))


def other_half(whole: SmallScores, first: SmallScores) -> SmallScores:
    """Of scores that are sums over examples: those of the examples that `first` has not seen."""
    return {key: whole[key] - value for key, value in first.items()}


def score_tensors(
    scores: SmallScores,
    halves: tuple[SmallScores, SmallScores] | None,
    model: torch.nn.Module,
) -> dict[str, Tensor]:
    """The file's tensors: `score/<kind>/<parameter>` [units], `half/...` [2, units], shapes."""
    found = {}
    for key, value in scores.items():
        name = key.split("/", 1)[1]
        found[f"score/{key}"] = _rounded(key, value)
        found[f"shape/{name}"] = torch.tensor(model.get_parameter(name).shape)
    first, second = halves or ({}, {})
    for key in first.keys() & second.keys():
        found[f"half/{key}"] = torch.stack([_rounded(key, first[key]), _rounded(key, second[key])])
    return found


def _rounded(key: str, value: Tensor) -> Tensor:
    """Over the largest. Samples, which are few, in float32: they span more than float16 does."""
    if not value.numel():
        return value.to("cpu", torch.float16)
    largest = value.abs().max().clamp_min(torch.finfo(value.dtype).tiny)
    dtype = torch.float32 if key.startswith("entries/") else torch.float16
    return (value / largest).to("cpu", dtype)
