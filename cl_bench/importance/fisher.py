"""Exact empirical Fisher scores of a causal language model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from cl_bench.training.loss import answer_logits

Granularity = Literal["rows", "columns", "elements"]


def scored_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters scored by default: all floating-point ones but embeddings and a (tied) head."""
    skipped = set()
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        find = getattr(model, getter, None)
        layer = find() if find else None
        if layer is not None:
            skipped |= {id(parameter) for parameter in layer.parameters()}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and id(parameter) not in skipped
    }


def trainable_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters that require a gradient, embeddings included."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def fisher_scores(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    granularity: Granularity = "rows",
    modules: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Simple version (per-sample loop); the fast one replaces it behind the same signature."""
    targets = (
        scored_parameters(model)
        if modules is None
        else {name: p for name, p in model.named_parameters() if name in set(modules)}
    )
    was_training, flags = model.training, {p: p.requires_grad for p in model.parameters()}
    model.eval()
    for parameter in flags:
        parameter.requires_grad_(parameter in set(targets.values()))
    scores: dict[str, Tensor] = {}
    try:
        for batch in batches:
            for i in range(batch["input_ids"].shape[0]):
                sample = {k: v[i : i + 1] for k, v in batch.items()}
                outputs = answer_logits(model, sample)
                loss = nn.functional.cross_entropy(
                    outputs.logits.float(), outputs.labels, reduction="sum"
                )
                grads = torch.autograd.grad(loss, list(targets.values()), allow_unused=True)
                for (name, p), grad in zip(targets.items(), grads, strict=True):
                    square = torch.zeros_like(p, dtype=torch.float32)
                    if grad is not None:
                        square = grad.float().square()
                    if p.dim() == 2 and granularity != "elements":
                        square = square.sum(1 if granularity == "rows" else 0)
                    scores[name] = scores[name] + square if name in scores else square
    finally:
        model.train(was_training)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
    return scores
