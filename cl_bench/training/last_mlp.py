"""The last layer's MLP at answer positions alone: elsewhere it reaches no logit of the loss.

What attention needs of other positions was computed before. Of n layers that saves up to 1/n of the
products with MLP weights, forward and backward, and of what they keep for backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def last_mlp(model: Any) -> Any:
    """The MLP after which a position only goes to the output layer; None where it is not found."""
    layers = getattr(model.get_decoder(), "layers", None) if hasattr(model, "get_decoder") else None
    mlp = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) and layers else None
    return mlp if isinstance(mlp, nn.Module) and "forward" not in vars(mlp) else None


@contextmanager
def mlp_at_answers(model: nn.Module, rows: Tensor, columns: Tensor, length: int) -> Iterator[None]:
    """While open, the last MLP of `model` is computed for [B, A, D]: the answers of each sample.

    (`rows`, `columns`): sample and position of N answer tokens in batches [B, `length`], in
    row-major order; A is the largest number of them in a sample. Elsewhere the MLP gives zeros. It
    stays whole where A is more than half of the length, for classes other than transformers'
    `...MLP`, where a hook looks at its layers (MIGU), and under gradient checkpointing, which
    computes it again later.
    """
    mlp = last_mlp(model) if len(rows) else None
    counts = torch.bincount(rows)
    if mlp is None or 2 * int(counts.max()) > length or not _is_separable(model, mlp):
        yield
        return
    mlp.forward = _at_answers(mlp.forward, rows, columns, counts)
    try:
        yield
    finally:
        del mlp.forward


def _is_separable(model: nn.Module, mlp: nn.Module) -> bool:
    """Whether the MLP is a function of each position, that nobody watches or computes again."""
    watched = any(each._forward_hooks or each._forward_pre_hooks for each in mlp.modules())
    again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    return type(mlp).__name__.endswith("MLP") and not watched and not again


def _at_answers(
    forward: Callable[[Tensor], Tensor], rows: Tensor, columns: Tensor, counts: Tensor
) -> Callable[[Tensor], Tensor]:
    widest = int(counts.max())

    def run(x: Tensor) -> Tensor:
        samples, length = x.shape[:2]
        # Samples stay apart, as Fisher scores need it; shorter ones are filled with position 0.
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        packed = rows * widest + place
        source = torch.arange(samples, device=rows.device).repeat_interleave(widest) * length
        source[packed] = rows * length + columns
        gathered = x.flatten(0, 1).index_select(0, source).view(samples, widest, -1)
        part = forward(gathered).flatten(0, 1)
        out = part.new_zeros(samples * length, part.shape[1])
        return out.index_copy(0, rows * length + columns, part[packed]).view(samples, length, -1)

    return run
