"""What the outputs of layers contribute to the next token: integrated gradients (KVA of LoKI)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cl_bench.training.loss import answer_logits


def contributions_of(
    model: nn.Module, batch: Mapping[str, Tensor], layers: Sequence[nn.Module], steps: int
) -> Iterator[Tensor]:
    """For each layer the contributions [B, D] of its outputs at the last position of the prompt.

    Integrated gradients of the probability of the token that the model predicts there, along the
    line from the layer's output for token ids of 0 to its output, by `steps` points (trapezoids).
    `batch`: input_ids, attention_mask, labels [B, T]; nothing but where the answers begin is read
    of the labels. One forward and backward pass for every layer and point.
    """

    def first_logits(given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [B, V] behind the prompts, and where those end [B]."""
        outputs = answer_logits(model, given)
        samples = torch.arange(len(given["labels"]), device=outputs.rows.device)
        first = torch.searchsorted(outputs.rows, samples)
        return outputs.logits[first], outputs.columns[first]

    def outputs_of(given: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
        seen: dict[nn.Module, Tensor] = {}
        hooks = [m.register_forward_hook(lambda m, _, out: seen.update({m: out})) for m in layers]
        with torch.no_grad():
            logits, ends = first_logits(given)
        for hook in hooks:
            hook.remove()
        return [seen[layer] for layer in layers], logits, ends

    real, logits, ends = outputs_of(batch)
    zero, _, _ = outputs_of({**batch, "input_ids": torch.zeros_like(batch["input_ids"])})
    predicted = logits.argmax(1, keepdim=True)
    rows = torch.arange(len(ends), device=ends.device)
    for layer, start, end in zip(layers, zero, real, strict=True):
        total = torch.zeros_like(end[:, 0], dtype=torch.promote_types(end.dtype, torch.float32))
        for i in range(steps):
            point = torch.lerp(start, end, i / (steps - 1)).requires_grad_()
            with torch.enable_grad(), _replaced(layer, point):
                odds = torch.softmax(first_logits(batch)[0].float(), 1).gather(1, predicted)
            (gradient,) = torch.autograd.grad(odds.sum(), [point])
            weight = 0.5 if i in (0, steps - 1) else 1.0
            total += weight / (steps - 1) * gradient[rows, ends]
        yield total * (end - start)[rows, ends]


@contextmanager
def _replaced(layer: nn.Module, output: Tensor) -> Iterator[None]:
    """While open, the layer's output is the given one."""
    hook = layer.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        hook.remove()
