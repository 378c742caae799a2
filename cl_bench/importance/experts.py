"""Outputs of fused experts, computed once more: their own forward shows them to nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cl_bench.training.cpu import matmul
from cl_bench.training.hooks import only_in_training


def watch_experts(
    module: Any,
    magnitudes: Mapping[str, Tensor],
    counted: Callable[[int], Tensor | None] = lambda tokens: None,
) -> Any:
    """A hook that adds |output| of every expert, summed over its tokens, to `magnitudes`.

    By the name of the weight (`gate_up_proj`, `down_proj`), [E, Dout] float32. In training only.
    `counted` says which of so many tokens count (bool; None: all).
    """

    @only_in_training
    def watch(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not module.training:
            return
        given = [*args, *kwargs.values()]  # hidden states [T, D], experts of each token [T, k], ...
        with torch.no_grad():
            some = counted(given[0].numel() // given[0].shape[-1])
            for name, expert, out in _outputs(module, given[0], given[1], some):
                if name in magnitudes:
                    magnitudes[name][expert] += out.abs().sum(0, dtype=torch.float32)

    return module.register_forward_hook(watch, with_kwargs=True)


def _outputs(
    module: Any, hidden: Tensor, chosen: Tensor, some: Tensor | None
) -> Iterator[tuple[str, int, Tensor]]:
    """(weight, expert, outputs [n, Dout]) of each expert that some of the tokens go through."""
    hidden, chosen = hidden.reshape(-1, hidden.shape[-1]), chosen.reshape(-1, chosen.shape[-1])
    if some is not None:
        hidden, chosen = hidden[some], chosen[some]
    first = "gate_up_proj" if module.has_gate else "up_proj"
    for expert in torch.unique(chosen).tolist():
        if expert >= module.num_experts:  # a mark of expert parallelism: not here
            continue
        tokens = (chosen == expert).any(-1).nonzero().squeeze(1)
        out = _linear(module, first, expert, hidden[tokens])
        yield first, expert, out
        inner = module._apply_gate(out) if module.has_gate else module.act_fn(out)
        yield "down_proj", expert, _linear(module, "down_proj", expert, inner)


def _linear(module: Any, name: str, expert: int, x: Tensor) -> Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return matmul.linear(x, weight.t() if module.is_transposed else weight, bias)
