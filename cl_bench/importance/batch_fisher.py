"""Squared gradients of batches: the estimate of the Fisher that most code uses in its place.

A batch's gradient is that of the training loss, the mean over its answer tokens. Its square is no
mean of squares: where the gradients of examples agree it is larger than where they cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from cl_bench.importance.fisher import (
    Remaining,
    scored_parameters,
    targets_of,
    undisturbed,
    zero_scores,
)
from cl_bench.importance.recorder import Granularity
from cl_bench.models.layouts import layouts
from cl_bench.training.cpu.attention import cpu_attention
from cl_bench.training.loss import answer_loss

Batches = Iterable[Mapping[str, Tensor]]


def batch_scores(
    model: nn.Module,
    groups: Iterable[Batches],
    all_reduce: Callable[[Tensor], None],
    granularity: Granularity = "rows",
    modules: Sequence[str] | None = None,
    remaining: Remaining | None = None,
    onto: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Sum over groups of the squared gradient of each, in the shapes of `fisher_scores`.

    `groups`: for each its padded batches, this process's share; `all_reduce` sums over processes,
    so every process has the result. Takes the memory of a whole gradient in the masters' dtype. The
    model is run in eval mode and comes back as it was. `remaining`, `onto`: as `fisher_scores`
    takes them.
    """
    targets = scored_parameters(model) if modules is None else targets_of(model, modules)
    found = layouts(model)
    scores = onto or {n: zero_scores(p, found[n], granularity) for n, p in targets.items()}
    with undisturbed(model), cpu_attention(model):
        for parameter in targets.values():
            parameter.requires_grad_(True)
        for group in groups if remaining is None else remaining(scores, groups):
            for name, gradient in _gradient(model, targets, group, all_reduce).items():
                scores[name].add_(found[name].total(gradient.square_(), granularity))
    return scores


def _gradient(
    model: nn.Module,
    targets: Mapping[str, nn.Parameter],
    batches: Batches,
    all_reduce: Callable[[Tensor], None],
) -> dict[str, Tensor]:
    """The gradient of the mean loss over the answer tokens of all batches."""
    device = next(iter(targets.values())).device
    tokens = torch.zeros((), dtype=torch.float64, device=device)
    total = {
        name: torch.zeros(p.shape, dtype=_wide(p), device=p.device) for name, p in targets.items()
    }
    for batch in batches:
        loss, outputs = answer_loss(model, batch, 1.0)
        tokens += outputs.labels.numel()
        if not outputs.labels.numel():
            continue
        gradients = torch.autograd.grad(loss, list(targets.values()), allow_unused=True)
        for own, gradient in zip(total.values(), gradients, strict=True):
            if gradient is not None:
                own.add_(gradient)
    all_reduce(tokens)
    for own in total.values():
        all_reduce(own)
        own.div_(max(float(tokens), 1.0))
    return total


def _wide(parameter: nn.Parameter) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32
