"""Linear layers of which the largest singular directions are kept and the others trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_bench.methods.targets import linear_layers
from cl_bench.models.layouts import Shape


class SplitLinear(nn.Linear):
    """y = x W' + b + x (U S V - U_0 S_0 V_0)', where U_0 S_0 V_0 is a part of W.

    Begins as the layer that it replaces, to the bit: U, S and V are U_0, S_0 and V_0, in the dtype
    of W. The layer's own parameters are those of the one that it replaces.
    """

    U: Tensor
    S: Tensor
    V: Tensor
    U_0: Tensor
    S_0: Tensor
    V_0: Tensor

    def __init__(self, layer: nn.Linear, factors: tuple[Tensor, Tensor, Tensor]) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        for name, factor in zip("USV", factors, strict=True):
            value = factor.to(layer.weight.dtype).contiguous()
            self.register_parameter(name, nn.Parameter(value.clone()))
            self.register_buffer(f"{name}_0", value, persistent=False)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        now = F.linear(F.linear(input, self.V) * self.S, self.U)
        before = F.linear(F.linear(input, self.V_0) * self.S_0, self.U_0)
        return F.linear(input, self.weight, self.bias) + (now - before)

    @torch.no_grad()
    def merge(self) -> None:
        """Write the change into W."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        u, s, v, u0, s0, v0 = (
            value.to(wide) for value in (self.U, self.S, self.V, self.U_0, self.S_0, self.V_0)
        )
        self.weight.copy_(self.weight.to(wide) + ((u * s) @ v - (u0 * s0) @ v0))


@dataclass
class Split:
    """One layer: what it was, and the projections of U [out, r] and V [r, in].

    Each projection is a basis in columns and whether it spans what stays (True) or what goes. In
    the shorter dimension both are there, and the smaller one is held.
    """

    layer: nn.Linear
    left: tuple[Tensor, bool]
    right: tuple[Tensor, bool]

    @torch.no_grad()
    def project(self, u: Tensor, v: Tensor) -> None:
        """Take out of U and V, or gradients of them, what lies in the kept directions, in place."""
        _project(u, *self.left)
        _project(v.t(), *self.right)


def split_layers(model: Any, kept_directions: Callable[[Shape], int]) -> dict[str, Split]:
    """Put a SplitLinear in the place of every linear layer but the head; by name.

    Layers with a forward of their own (Falcon's, Conv1D) stay as they are.
    """
    found: dict[str, Split] = {}
    for name in linear_layers(model):
        layer = model.get_submodule(name)
        if type(layer).forward is not nn.Linear.forward:
            continue
        wide = torch.promote_types(layer.weight.dtype, torch.float32)
        u, s, vh = torch.linalg.svd(layer.weight.detach().to(wide), full_matrices=False)
        kept = kept_directions(tuple(layer.weight.shape))
        rows, columns = layer.weight.shape
        left = _basis(u, kept, rows <= columns)
        right = _basis(vh.t(), kept, columns <= rows)
        found[name] = Split(layer, left, right)
        split = SplitLinear(layer, (u[:, kept:], s[kept:], vh[kept:]))
        _put(model, name, split)
    return found


def merge_layers(model: Any, splits: dict[str, Split]) -> None:
    """Put the layers back, with what was trained in their weights."""
    for name, split in splits.items():
        model.get_submodule(name).merge()
        _put(model, name, split.layer)


def _basis(directions: Tensor, kept: int, complete: bool) -> tuple[Tensor, bool]:
    """`complete`: the directions span the whole space, so that the free ones are the rest."""
    free = directions.shape[1] - kept
    if complete and free < kept:
        return directions[:, kept:].clone(), True
    return directions[:, :kept].clone(), False


def _project(values: Tensor, basis: Tensor, stays: bool) -> None:
    inside = basis @ (basis.t() @ values)
    if stays:
        values.copy_(inside)
    else:
        values.sub_(inside)


def _put(model: Any, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)
