"""A model's decoder layers computed by the compiled kernels, where they are of the common form.

That form is Llama's: RMSNorm, attention with rotary positions and grouped heads, RMSNorm, SwiGLU.
Names of modules say that a layer may be of it, a trial that it is (fused/opened.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.evaluation.shared_prefix.cpu_packed_weights import (
    PackedLinear,
    has_room,
    is_packable,
    side_by_side,
)
from cl_bench.evaluation.shared_prefix.fused.compiled import Heads, Jobs, Kernels, kernels_for
from cl_bench.evaluation.shared_prefix.fused.store import Store
from cl_bench.training.patching import is_replaced, replaced

Joined = Callable[[Sequence[nn.Linear]], Callable[[Tensor], Tensor]]
"""Linear layers of the same input as one product, their outputs side by side."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass
class Pass:
    """What the layers of one pass are told beside their input."""

    store: Store
    offsets: Tensor
    """int64 [N]: where a head's keys of each token go, in numbers."""
    jobs: Jobs
    keep: Tensor | None
    """int64 [K]: the tokens whose output is wanted; None: all."""


class _Told(threading.local):
    """What this thread's pass is told: several threads may run passes at once."""

    now: Pass | None = None


class FusedLayer:
    """One decoder layer."""

    def __init__(
        self, layer: Any, kernels: Kernels, number: int, last: bool, told: _Told, joined: Joined
    ) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.kernels, self.number, self.last, self.told = kernels, number, last, told
        self.scale = float(attention.scaling)
        self.before = _norm(layer.input_layernorm)
        self.after = _norm(layer.post_attention_layernorm)
        self.inputs = joined([attention.q_proj, attention.k_proj, attention.v_proj])
        self.output = joined([attention.o_proj])
        self.gates = joined([mlp.gate_proj, mlp.up_proj])
        self.down = joined([mlp.down_proj])

    def __call__(
        self,
        hidden_states: Tensor,
        *_: Any,
        position_embeddings: tuple[Tensor, Tensor],
        **__: Any,
    ) -> Tensor:
        """[1, N, C] -> [1, N, C], of the last layer [1, K, C]."""
        now = self.told.now
        assert now is not None, "called by `run`"
        kernels, x = self.kernels, hidden_states[0]
        store = now.store.layers[self.number]
        cosines, sines = (each[0].contiguous() for each in position_embeddings)
        expected = torch.Size((len(x), kernels.heads.size)), x.dtype
        if any((turn.shape, turn.dtype) != expected for turn in (cosines, sines)):
            raise ValueError("rotary positions that turn only a part of each head")
        rows = self.inputs(kernels.normalised(x, None, *self.before))
        q = kernels.placed(rows, (cosines, sines), now.offsets, store)
        found = kernels.attended(q, store, now.jobs, self.scale)
        if self.last and now.keep is not None:
            # What attention needs of other tokens is in the store.
            found, x = found[now.keep], x[now.keep]
        normed = kernels.normalised(x, self.output(found), *self.after)
        kernels.add(x, self.down(kernels.gated(self.gates(normed))))
        return x[None]


def _norm(module: Any) -> tuple[Tensor, float]:
    return module.weight.detach().contiguous(), float(module.variance_epsilon)


def heads_of(model: Any) -> Heads | None:
    """The heads of a model whose layers look as if they were of the common form."""
    layers = _layers(model)
    if not layers or not all(_is_common(layer) for layer in layers):
        return None
    if {weight.dtype for layer in layers for weight in layer.parameters()} != {model.dtype}:
        return None
    shapes = {
        (
            layer.self_attn.head_dim,
            layer.self_attn.q_proj.out_features,
            layer.self_attn.k_proj.out_features,
            layer.self_attn.v_proj.out_features,
        )
        for layer in layers
    }
    if len(shapes) != 1:
        return None
    size, queries, keys, values = shapes.pop()
    if keys != values or queries % keys or keys % size:
        return None
    return Heads(size, queries // keys, keys // size)


def _layers(model: Any) -> list[Any]:
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    layers = getattr(decoder, "layers", None)
    return list(layers) if isinstance(layers, nn.ModuleList) else []


def _is_common(layer: Any) -> bool:
    """Whether a layer has the modules of the common form, none of them patched or watched."""
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    linears = [getattr(attention, name, None) for name in PROJECTIONS]
    linears += [getattr(mlp, name, None) for name in MLP]
    norms = [getattr(layer, f"{name}_layernorm", None) for name in ("input", "post_attention")]
    if not all(isinstance(each, nn.Linear) and is_packable(each) for each in linears):
        return False
    if not all(hasattr(norm, "variance_epsilon") and hasattr(norm, "weight") for norm in norms):
        return False
    modules = list(layer.modules())
    if len(list(layer.children())) != 4 or len(list(layer.self_attn.children())) != 4:
        return False
    hooks = any(each._forward_hooks or each._forward_pre_hooks for each in modules)
    settings = (getattr(attention, name, None) for name in ("head_dim", "scaling"))
    return not hooks and not any(map(is_replaced, modules)) and None not in settings


class FusedLayers:
    """All decoder layers of a model."""

    def __init__(self, model: Any, kernels: Kernels, packed: bool) -> None:
        """`packed`: with copies of the weights, packed for products of few rows."""
        self.model, self.kernels, self.heads = model, kernels, kernels.heads
        self.weights = _weights(model)
        joined: Joined = PackedLinear.joined if packed else TorchLinear
        self.modules = _layers(model)
        self._told = _Told()
        count = len(self.modules)
        self.layers = [
            FusedLayer(layer, kernels, i, i + 1 == count, self._told, joined)
            for i, layer in enumerate(self.modules)
        ]

    def linears(self) -> Iterator[nn.Linear]:
        """Those that are computed here."""
        for layer in self.modules:
            yield from (m for m in layer.modules() if isinstance(m, nn.Linear))

    def store(self, tokens: int) -> Store:
        """An empty store."""
        return Store(len(self.layers), self.heads, self.model.dtype, tokens)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model's layers are these ones inside the block, where only `run` calls it."""
        with ExitStack() as restore:
            for module, layer in zip(self.modules, self.layers, strict=True):
                restore.enter_context(replaced(module, layer))
            yield

    def run(self, tokens: Sequence[int], positions: Sequence[int], told: Pass) -> Tensor:
        """Logits [K, V] of the tokens kept, in the model's dtype; `in_place`, by any thread."""
        self._told.now = told
        try:
            output = self.model(
                input_ids=torch.as_tensor(tokens)[None],
                # Four dimensions: transformers takes it as it is. Nothing reads it.
                attention_mask=torch.zeros(1, 1, 1, 1, dtype=self.model.dtype),
                position_ids=torch.as_tensor(positions)[None],
                use_cache=False,
            )
        finally:
            self._told.now = None
        logits: Tensor = output.logits[0]
        return logits


def _weights(model: Any) -> list[tuple[int, int]]:
    """Where the weights of the layers are, and how often torch has changed them."""
    weights = [weight for layer in _layers(model) for weight in layer.parameters()]
    return [(weight.data_ptr(), weight._version) for weight in weights]


def fused_layers(
    model: Any, packed: bool = True, before: FusedLayers | None = None
) -> FusedLayers | None:
    """Fused layers, not yet tried; None where the model, the machine or memory has none.

    `before`: layers made so for the same model, which come back where no weight has changed.
    The model must have torch's own attention and be in evaluation mode.
    """
    if next(model.parameters()).device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return None
    heads = heads_of(model)
    kernels = None if heads is None else kernels_for(heads, model.dtype)
    if kernels is None:
        return None
    if before is not None and before.weights == _weights(model):
        return before
    linears = [m for layer in _layers(model) for m in layer.modules() if isinstance(m, nn.Linear)]
    return FusedLayers(model, kernels, packed) if has_room(linears) else None


class TorchLinear:
    """torch's own product for linear layers, side by side."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.weight, self.bias = side_by_side(layers)

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)
