"""What only scored positions need is computed for them alone: the output layer and the last MLP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def only_kept(model: Any, keep: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """For one call of `model` over ids [B, T]; yields logits -> [len(keep), vocab].

    `keep` indexes the flattened [B * T]. Modules are told, the decoder and the head are not called
    apart: what models do after the head (soft caps, scales) stays theirs.
    """
    head = model.get_output_embeddings()
    if head is None or not len(keep):
        yield lambda logits: logits.flatten(0, 1)[keep]
        return

    def gather(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1)[keep][None], *inputs[1:])

    with ExitStack() as restore:
        restore.callback(head.register_forward_pre_hook(gather).remove)
        mlp = _last_mlp(model)
        if mlp is not None:
            mlp.forward = _of_kept(mlp.forward, keep)
            restore.callback(delattr, mlp, "forward")
        yield lambda logits: logits[0]


def _last_mlp(model: Any) -> Any:
    """The MLP after which a position only goes to the output layer; None where it is not found."""
    layers = getattr(model.get_decoder(), "layers", None) if hasattr(model, "get_decoder") else None
    mlp = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) and layers else None
    return mlp if isinstance(mlp, nn.Module) and "forward" not in vars(mlp) else None


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
