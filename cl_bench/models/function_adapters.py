"""Adapters that are functions, not matrices: no weight can hold them, they stay beside the model.

They are saved as a small folder of their own kind, which neither transformers nor PEFT reads: the
settings in `function_adapter.json`, the tensors by their names in the model, and as for every
adapter where its base is (`checkpoints.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.models.kan import KANPair
from cl_bench.models.load import FUNCTION_ADAPTER as SETTINGS
from cl_bench.store.folders import read_json, there, write_json

TENSORS = "function_adapter.safetensors"
DEVIATION = 0.01
"""Houlsby et al. 2019: of the matrices of a bottleneck at first."""


class Bottleneck(nn.Module):
    """up(f(down(y))) of a layer's output y [..., D], through `size` units; biases begin at 0.

    The matrices begin with a normal distribution of deviation 0.01, cut off at twice that, or with
    `zero` the second one with 0.
    """

    behind = True

    def __init__(self, layer: nn.Linear, size: int, activation: str, zero: bool) -> None:
        super().__init__()
        self.down = nn.Linear(layer.out_features, size)
        self.f = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}[activation]()
        self.up = nn.Linear(size, layer.out_features)
        for linear in (self.down, self.up):
            nn.init.zeros_(linear.bias)
            nn.init.trunc_normal_(linear.weight, std=1.0, a=-2.0, b=2.0)
            linear.weight.data.mul_(DEVIATION)
        if zero:
            nn.init.zeros_(self.up.weight)

    def forward(self, y: Tensor) -> Tensor:
        """[..., D] to the same shape."""
        return self.up(self.f(self.down(y)))  # type: ignore[no-any-return]


KINDS: Mapping[str, type[nn.Module]] = {"bottleneck": Bottleneck, "kan": KANPair}


@dataclass(frozen=True)
class FunctionAdapter:
    """What a model has beside its weights: one function of a kind for each of some linear layers.

    `settings`: what the kind's class takes beside the layer. `layers`: names of linear layers.
    """

    kind: str
    settings: dict[str, Any]
    layers: list[str]


class Adapted(nn.Module):
    """A linear layer with a function of its input (or of its output, `behind`) that is added."""

    def __init__(self, base_layer: nn.Linear, function: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.function = base_layer, function

    def forward(self, x: Tensor) -> Tensor:
        """[..., Din] to [..., Dout]."""
        y: Tensor = self.base_layer(x)
        added: Tensor = self.function(y if getattr(self.function, "behind", False) else x)
        return y + added


def adapter_of(model: Any) -> FunctionAdapter | None:
    """What was attached to a model; None for others."""
    found: FunctionAdapter | None = getattr(model, "_function_adapter", None)
    return found


def attach(model: nn.Module, adapter: FunctionAdapter) -> None:
    """Give linear layers of the model their functions, new ones; all other weights are frozen.

    Drawn from torch's global generator, on the CPU in float32, then in the model's dtype.
    """
    model.requires_grad_(False)
    for name in adapter.layers:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        function = KINDS[adapter.kind](layer, **adapter.settings)
        _put(model, name, Adapted(layer, function.to(layer.weight)))
    model._function_adapter = adapter  # type: ignore[assignment]


def detach(model: nn.Module) -> None:
    """Take the functions away again."""
    adapter = adapter_of(model)
    for name in adapter.layers if adapter else ():
        _put(model, name, model.get_submodule(name).base_layer)
    model._function_adapter = None  # type: ignore[assignment]


def save_function_adapter(model: nn.Module, folder: Path) -> None:
    """Write both files."""
    from safetensors.torch import save_file

    adapter = adapter_of(model)
    assert adapter is not None
    own = {n: p.detach().contiguous() for n, p in model.named_parameters() if ".function." in n}
    save_file(own, folder / TENSORS, metadata={"format": "pt"})
    write_json(folder / SETTINGS, asdict(adapter))


def is_function_adapter(folder: Path) -> bool:
    """Whether a checkpoint is one."""
    return there(folder / SETTINGS)


def load_function_adapter(model: nn.Module, folder: Path) -> None:
    """Attach what `save_function_adapter` wrote."""
    from safetensors.torch import load_file

    with torch.random.fork_rng(devices=[]):
        attach(model, FunctionAdapter(**read_json(folder / SETTINGS)))
    own = {n: p for n, p in model.named_parameters() if ".function." in n}
    with torch.no_grad():
        for name, value in load_file(folder / TENSORS).items():
            own.pop(name).copy_(value)
    assert not own


def _put(model: nn.Module, name: str, module: Any) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
