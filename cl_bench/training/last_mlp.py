"""The last layer's MLP at answer positions alone: elsewhere it reaches no logit of the loss.

What attention needs of other positions was computed before. Of n layers that saves up to 1/n of the
products with MLP weights, forward and backward, and of what they keep for backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cl_bench.training.patching import as_declared, is_replaced, replaced


def last_mlp(model: Any) -> Any:
    """The MLP after which a position only goes to the output layer; None where it is not found."""
    layers = getattr(model.get_decoder(), "layers", None) if hasattr(model, "get_decoder") else None
    mlp = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) and layers else None
    return mlp if isinstance(mlp, nn.Module) and not is_replaced(mlp) else None


@contextmanager
def mlp_at_answers(model: nn.Module, rows: Tensor, columns: Tensor, length: int) -> Iterator[None]:
    """While open, the last MLP of `model` is computed for [B, A, D]: the answers of each sample.

    (`rows`, `columns`): sample and position of N answer tokens in batches [B, `length`], in
    row-major order; A is the largest number of them in a sample. Elsewhere the MLP gives zeros. It
    stays whole where A is more than half of the length, for classes other than transformers'
    `...MLP` and those that a trial finds to be no function of each position, where a hook looks at
    its layers (MIGU), and under gradient checkpointing, which computes it again later.
    """
    mlp = last_mlp(model) if len(rows) else None
    counts = torch.bincount(rows)
    widest = int(counts.max()) if mlp is not None else 0
    if mlp is None or 2 * widest > length or not _is_separable(model, mlp):
        yield
        return
    with replaced(mlp, _at_answers(mlp.forward, rows, columns, counts, widest)):
        yield


def try_last_mlp(model: Any) -> None:
    """Try the last MLP while its weights can be read, before they are split over processes."""
    mlp = last_mlp(model)
    if mlp is not None and type(mlp).__name__.endswith("MLP"):
        _TRIED[mlp] = _passes_trial(mlp)


def _is_separable(model: nn.Module, mlp: nn.Module) -> bool:
    """Whether the MLP is a function of each position, that nobody watches or computes again."""
    watched = any(each._forward_hooks or each._forward_pre_hooks for each in mlp.modules())
    again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if not type(mlp).__name__.endswith("MLP") or watched or again:
        return False
    if mlp not in _TRIED:
        _TRIED[mlp] = _passes_trial(mlp)
    return _TRIED[mlp]


_TRIED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _passes_trial(mlp: nn.Module) -> bool:
    """Whether [B, T, D] gives a tensor of the same shape and kind, each position from its own.

    Positions of a made-up input alone, and in another order, must give what they gave together.
    No random number is drawn, and the modes of the layers are put back.
    """
    weight = next((p for p in mlp.parameters() if p.is_floating_point()), None)
    size = _input_size(mlp)
    if weight is None or size is None or weight.device.type == "meta":
        return False
    x = torch.arange(6 * size, dtype=torch.float32, device=weight.device)
    x = (x * 0.7).sin().mul(3).view(2, 3, size).to(weight.dtype)
    modes = [(module, module.training) for module in mlp.modules()]
    try:
        mlp.eval()
        # Without the forwards of the update engine, or of a scoring that counts uses.
        with torch.no_grad(), as_declared(list(mlp.modules())):
            whole = mlp(x)
            if not isinstance(whole, Tensor) or whole.shape != x.shape or whole.dtype != x.dtype:
                return False
            turned = mlp(x.flip(0, 1)).flip(0, 1)
            alone = torch.stack([mlp(x[:, i : i + 1])[:, 0] for i in range(3)], 1)
    except Exception:  # it takes more than hidden states, or wants them otherwise
        return False
    finally:
        for module, mode in modes:
            module.training = mode
    steps = 4 if x.dtype in (torch.bfloat16, torch.float16) else 8 * size**0.5
    allowed = steps * torch.finfo(x.dtype).eps * float(whole.abs().max())
    return all(float((y - whole).abs().max()) <= allowed for y in (turned, alone))


def _input_size(mlp: nn.Module) -> int | None:
    """Features of a position, as the first layer that says takes them."""
    for module in mlp.modules():
        size = getattr(module, "in_features", None) or getattr(module, "nx", None)
        if isinstance(size, int):
            return size
    return None


def _at_answers(
    forward: Callable[..., Any], rows: Tensor, columns: Tensor, counts: Tensor, widest: int
) -> Callable[..., Any]:
    def run(x: Tensor, *others: Any, **named: Any) -> Any:
        if others or named or x.dim() != 3:  # more than the hidden states that were tried
            return forward(x, *others, **named)
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
