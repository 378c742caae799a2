"""Which dimensions of a parameter are output units, and which are inputs, whatever its layout.

A Linear weight is [Dout, Din], GPT-2's Conv1D [Din, Dout], experts are stacks of either. Masks and
scores are of output units, so they ask here. What a model's class does not tell counts entry by
entry. Torch is not imported: `cl-bench plan` lays out models without it.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


Shape = tuple[int, ...]
DBRX = ("w1", "v1", "w2")
"""Matrices [experts * inner, hidden] of one class; the last is multiplied from the other side."""


@dataclass(frozen=True)
class Layout:
    """Dimensions of a parameter: `units` x `inputs`, behind `stack` (0 or 1) that counts experts.

    Every member of a stack is a weight of its own. Without `inputs` each entry stands alone
    (vectors, and layers whose layout is not known). `active`: share of the entries that a token is
    multiplied by. `selective`: whether backward computes the selected part of the gradient alone.
    `linear`: whether the layer is a linear one, whose output is that of the weight. `hidden`:
    whether experts show the outputs of their units to nobody (methods that watch them cannot).
    """

    units: tuple[int, ...]
    inputs: tuple[int, ...] = ()
    stack: int = 0
    active: float = 1.0
    selective: bool = True
    linear: bool = True
    hidden: bool = False

    @classmethod
    def of_shape(cls, shape: Shape) -> Layout:
        """What a shape alone tells: vectors, and matrices as Linear has them."""
        if len(shape) == 2:
            return cls((0,), (1,))
        return cls(tuple(range(len(shape))))

    @property
    def is_matrix(self) -> bool:
        """Whether units and inputs are the two dimensions of a matrix, or of a stack of them."""
        return len(self.units) == len(self.inputs) == 1

    def kept(self, granularity: str) -> tuple[int, ...]:
        """Dimensions that scores in rows (units), columns (inputs) or elements have."""
        everything = tuple(range(self.stack + len(self.units) + len(self.inputs)))
        if not self.inputs or granularity == "elements":
            return everything
        own = self.units if granularity == "rows" else self.inputs
        return tuple(d for d in everything if d < self.stack or d in own)

    def score_shape(self, shape: Shape, granularity: str) -> Shape:
        """The shape of a parameter's scores."""
        return tuple(shape[d] for d in self.kept(granularity))

    def total(self, entries: Tensor, granularity: str) -> Tensor:
        """Sums a tensor of the parameter's shape to that of its scores."""
        kept = self.kept(granularity)
        summed = [d for d in range(entries.dim()) if d not in kept]
        return entries.sum(summed) if summed else entries

    def spread(self, chosen: Tensor, shape: Shape, granularity: str) -> Tensor:
        """The other way: a tensor of the scores' shape as a view of the parameter's shape."""
        kept = self.kept(granularity)
        return chosen.reshape([s if d in kept else 1 for d, s in enumerate(shape)]).expand(shape)


def layouts(model: Any) -> dict[str, Layout]:
    """The layout of every parameter, by its name in `model.named_parameters()`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, Layout] = {}
    for module in model.modules():
        for own, parameter in module.named_parameters(recurse=False):
            layout = _layout(model, module, own, tuple(parameter.shape))
            found.setdefault(names[id(parameter)], layout)
    return found


def is_conv1d(module: Any) -> bool:
    """Whether the layer is GPT-2's Conv1D: a linear layer whose weight is [Din, Dout]."""
    from transformers.pytorch_utils import Conv1D

    return type(module).forward is Conv1D.forward


def is_router(module: Any) -> bool:
    """Whether a linear layer chooses experts with its product, and returns that beside it."""
    from torch import nn

    return isinstance(module, nn.Linear) and hasattr(module, "top_k")


def _layout(model: Any, module: Any, own: str, shape: Shape) -> Layout:
    from torch import nn

    if is_conv1d(module) and own == "weight":
        return Layout((1,), (0,))
    plain = type(module).forward in (nn.Linear.forward, nn.Embedding.forward)
    if len(shape) < 2 or (plain and own == "weight"):
        return Layout.of_shape(shape)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        rest = tuple(range(1, len(shape)))
        return Layout((0,), rest, selective=False, linear=False)
    if own in DBRX and (count := _glued_experts(module)):
        unit = 1 if own == "w2" else 0
        active = _share(count, _chosen(model, module))
        return Layout((unit,), (1 - unit,), active=active, selective=False, linear=False)
    transposed = experts_transposed(module)
    if transposed is not None and shape[0] == _experts(module):
        active = 1.0 if _sees_all(module) else _share(_experts(module), _chosen(model, module))
        if len(shape) == 3:
            units, inputs = (2, 1) if transposed else (1, 2)
            hidden = not readable(module)
            return Layout((units,), (inputs,), 1, active, False, False, hidden)
        if own.endswith("bias"):
            return Layout(
                tuple(range(1, len(shape))), stack=1, active=active, selective=False, linear=False
            )
    default = Layout.of_shape(shape)
    # With a forward of its own, as Falcon's; Llama 4's router returns more than its product.
    linear = isinstance(module, nn.Linear) and not is_router(module)
    return Layout(default.units, default.inputs, selective=False, linear=linear)


def fused_experts(module: Any) -> bool:
    """Whether transformers marks the layer as experts, of which it has several implementations."""
    return hasattr(module, "is_transposed") and hasattr(module, "has_gate")


def experts_transposed(module: Any) -> bool | None:
    """Whether fused experts hold [E, Din, Dout] (else [E, Dout, Din]); None for other layers."""
    if fused_experts(module):
        return bool(module.is_transposed)
    matrices = {n: tuple(p.shape) for n, p in module.named_parameters(recurse=False)}
    if len(matrices.get("gate_up_proj", ())) == len(matrices.get("down_proj", ())) == 3:
        (_, a, b), (_, c, d) = matrices["gate_up_proj"], matrices["down_proj"]
        if (a, b) == (d, 2 * c):
            return True
        return False if (a, b) == (2 * d, c) else None
    weight = matrices.get("weight", ())
    sizes = (getattr(module, "output_size", None), getattr(module, "input_size", None))
    if len(weight) == 3 and sizes in (weight[1:], weight[:0:-1]):
        return sizes != weight[1:]
    return None


def _experts(module: Any) -> int:
    return max(int(p.shape[0]) for p in module.parameters(recurse=False) if p.dim() == 3)


def readable(module: Any) -> bool:
    """Whether experts are as `use_experts_implementation` of transformers marks them."""
    marks = ("is_transposed", "has_gate", "has_bias", "down_proj", "num_experts")
    return all(hasattr(module, mark) for mark in marks)


def _glued_experts(module: Any) -> int:
    """How many experts lie one below the other in DBRX's matrices w1, v1 and w2; 0 elsewhere."""
    count, inner = (getattr(module, key, 0) for key in ("moe_num_experts", "ffn_hidden_size"))
    sizes = {tuple(getattr(getattr(module, key, None), "shape", ())) for key in DBRX}
    return count if sizes == {(count * inner, getattr(module, "hidden_size", 0))} else 0


def _sees_all(module: Any) -> bool:
    """Whether experts are given hidden states alone (Llama 4): every token passes all of them."""
    return len(inspect.signature(type(module).forward).parameters) == 2


def _share(experts: int, chosen: int | None) -> float:
    return min(1.0, chosen / experts) if chosen else 1.0


def _chosen(model: Any, module: Any) -> int | None:
    """How many experts a token goes through; None where no config says."""
    for config in (getattr(module, "config", None), getattr(model, "config", None)):
        find: Any = getattr(config, "get_text_config", lambda: None)
        text = find() or config
        for values in (text, getattr(text, "ffn_config", None)):
            for key in ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk"):
                chosen = getattr(values, key, None)
                if isinstance(chosen, int) and chosen > 0:
                    return chosen
    return None


def patterns(names: Iterable[str]) -> list[str]:
    """Names of parameters with `*` for numbers, each once: `model.layers.*.mlp.gate.weight`."""
    return list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))


def entries_alone(found: Mapping[str, Layout], shapes: Mapping[str, Shape]) -> list[str]:
    """Weights whose output units are not known: their entries stand alone."""
    return [n for n, layout in found.items() if not layout.inputs and _unknown(layout, shapes[n])]


def _unknown(layout: Layout, shape: Shape) -> bool:
    return len(shape) - layout.stack > 1 and math.prod(shape) > 0
