"""What only scored positions need is computed for them alone: the output layer and the last MLP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from cl_bench.training.last_mlp import last_mlp
from cl_bench.training.patching import replaced


@contextmanager
def only_kept(model: Any, keep: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """For one call of `model` over ids [B, T]; yields logits -> [len(keep), vocab].

    `keep` indexes the flattened [B * T]. Modules are told, the decoder and the head are not called
    apart: what models do after the head (soft caps, scales) stays theirs.
    """
    head = model.get_output_embeddings()
    if head is None:
        yield lambda logits: logits.flatten(0, 1)[keep]
        return
    # A trunk that nobody asks about has one row of logits, not one for every token.
    some = keep if len(keep) else keep.new_zeros(1)

    def gather(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1)[some][None], *inputs[1:])

    with ExitStack() as restore:
        restore.callback(head.register_forward_pre_hook(gather).remove)
        mlp = last_mlp(model)
        if mlp is not None:
            restore.enter_context(replaced(mlp, _of_kept(mlp.forward, some)))
        yield lambda logits: logits[0, : len(keep)]


def _of_kept(forward: Callable[..., Any], keep: Tensor) -> Callable[..., Any]:
    """`forward` over [B, T, D] for the kept positions; zero elsewhere."""

    def run(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        part = forward(x.flatten(0, 1)[keep][None], *args, **kwargs)
        if not isinstance(part, Tensor) or part.shape[-1] != x.shape[-1]:
            return forward(x, *args, **kwargs)
        out = x.new_zeros(x.shape)
        out.view(-1, x.shape[-1])[keep] = part[0]
        return out

    return run
