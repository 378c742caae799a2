"""Gradients outside of updates: before training, between phases, after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cl_bench.methods.stage import Stage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_bench.data.examples import Example
    from cl_bench.training.loss import AnswerOutputs

Summed = Callable[["AnswerOutputs"], "Tensor"]
"""A sum over the answer tokens of a batch."""


def gradient_on(
    stage: Stage,
    examples: Sequence[Example],
    parameters: Mapping[str, nn.Parameter],
    summed: Summed | None = None,
) -> dict[str, Tensor]:
    """Gradient of a mean over the answer tokens of `examples`, over all processes.

    `summed`: what is summed over tokens before the mean is taken; the loss by default. The model is
    used as it is (in eval mode outside of phases), gradients are in float32 at least. All processes
    must call this alike.
    """
    import torch

    from cl_bench.training.cross_entropy import summed_cross_entropy
    from cl_bench.training.loss import answer_logits

    def loss(outputs: AnswerOutputs) -> Tensor:
        return summed_cross_entropy(outputs.logits, outputs.labels)

    wide = {n: torch.promote_types(p.dtype, torch.float32) for n, p in parameters.items()}
    total = {n: torch.zeros_like(p, dtype=wide[n]) for n, p in parameters.items()}
    tokens = torch.zeros((), dtype=torch.float64, device=stage.device)
    flags = [(p, p.requires_grad) for p in stage.model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for batch in stage.batches(examples):
            with torch.enable_grad():
                outputs = answer_logits(stage.model, batch)
                value = (summed or loss)(outputs)
            tokens += outputs.labels.numel()
            if outputs.labels.numel():
                found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
                for name, gradient in zip(parameters, found, strict=True):
                    if gradient is not None:
                        total[name].add_(gradient)
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    stage.all_reduce(tokens)
    for gradient in total.values():
        stage.all_reduce(gradient)
        gradient.div_(tokens.clamp(min=1).to(gradient.dtype))
    return total
