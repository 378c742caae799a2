"""Layers that hand their inputs and output gradients to a recorder, while a pass is scored.

Weights take no gradient: a recorded layer computes its output and the gradient of its input only.
Vectors (norm weights and biases) are expanded to one copy per sample, so that autograd itself
returns their per-sample gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from cl_bench.models.layouts import is_conv1d
from cl_bench.training.cpu import matmul

Sink = Callable[[Tensor, Tensor], None]


class NotBatchedError(Exception):
    """A layer's input does not keep samples apart in its first dimension."""


class _RecordedLinear(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor, sink: Sink
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sink = sink
        return matmul.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wide = matmul.widen(grad)
        ctx.sink(x, wide)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        dx = matmul.input_gradient(wide.reshape(-1, weight.shape[0]), weight)
        return dx.to(x.dtype).view(x.shape), None, None, None, None


def recorded_linear(
    module: Any, anchor: Tensor, begin: Callable[[Tensor], None], sink: Sink
) -> Callable[[Tensor], Tensor]:
    """A forward of nn.Linear or Conv1D that calls `begin(x)`, and `sink(x, g)` in backward.

    g is widened (matmul.py). `anchor` is an empty leaf that requires a gradient, so that backward
    comes by even if nothing before the layer does.
    """
    turned = is_conv1d(module)

    def forward(input: Tensor) -> Tensor:
        begin(input)
        weight, bias = module.weight.detach(), module.bias
        weight, bias = weight.t() if turned else weight, None if bias is None else bias.detach()
        arguments = (input, weight, bias, anchor, sink)
        return _RecordedLinear.apply(*arguments)  # type: ignore[no-any-return,no-untyped-call]

    return forward


def recorded_embedding(
    module: nn.Embedding, begin: Callable[[Tensor], None], sink: Sink
) -> Callable[[Tensor], Tensor]:
    """A forward of a plain nn.Embedding that calls `begin(ids)`, and `sink(ids, g)` in backward."""

    def forward(input: Tensor) -> Tensor:
        begin(input)
        out = torch.nn.functional.embedding(input, module.weight.detach()).requires_grad_()

        def hand_over(grad: Tensor) -> None:
            if module.padding_idx is not None:
                grad = grad * (input != module.padding_idx).unsqueeze(-1)
            sink(input, grad)

        out.register_hook(hand_over)  # type: ignore[no-untyped-call]
        return out

    return forward


def expandable(module: nn.Module) -> bool:
    """Whether the layer is a norm whose vectors multiply or shift each position alone."""
    return type(module).forward in (nn.LayerNorm.forward, nn.RMSNorm.forward) or (
        type(module).__name__.endswith("RMSNorm")
        and all(parameter.dim() == 1 for parameter in module.parameters(recurse=False))
    )


def expanded_norm(
    module: nn.Module, samples: Callable[[], int], keep: Callable[[str, Tensor], None]
) -> Callable[[Tensor], Tensor]:
    """A forward of a norm layer with one copy of its vectors per sample.

    `keep(name, copies)` gets the copies [B, 1, ..., D], whose `.grad` is per sample after backward.
    """

    def forward(hidden_states: Tensor) -> Tensor:
        count = samples()
        if hidden_states.shape[0] != count:
            raise NotBatchedError
        lead = (count, *[1] * (hidden_states.dim() - 2), -1)
        copies = {
            name: vector.detach().expand(lead).contiguous().requires_grad_()
            for name, vector in module.named_parameters(recurse=False)
        }
        for name, copy in copies.items():
            keep(name, copy)
        return _apply_norm(module, hidden_states, copies)

    return forward


def _apply_norm(module: Any, x: Tensor, copies: dict[str, Tensor]) -> Tensor:
    if type(module).forward is nn.LayerNorm.forward:
        out = torch.nn.functional.layer_norm(x, module.normalized_shape, None, None, module.eps)
    elif type(module).forward is nn.RMSNorm.forward:
        out = torch.nn.functional.rms_norm(x, module.normalized_shape, None, module.eps)
    else:
        with _swapped(module, copies):
            return type(module).forward(module, x)  # type: ignore[no-any-return]
    out = out * copies["weight"] if "weight" in copies else out
    return out + copies["bias"] if "bias" in copies else out


@contextmanager
def _swapped(module: nn.Module, tensors: dict[str, Tensor]) -> Iterator[None]:
    """While open, `module.<name>` is the given tensor instead of the parameter."""
    vars(module).update(tensors)
    try:
        yield
    finally:
        for name in tensors:
            del vars(module)[name]
