"""What training costs in bytes and FLOPs, from parameter shapes alone.

Pure functions of shapes: `cl-bench plan` asks before model or data exist. The figures are those of
the engine (engine.py): weights in the run's dtype, and for every trained entry a float32 gradient,
master and two moments; a fully trained float32 weight is its own master. Tests compare them with
the bytes the engine holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

_MASTER = 4
_MOMENTS = 8
_INDEX = 8  # rows and columns are int64, one for each
_ELEMENT_INDEX = 4  # int32, one for each selected entry


@dataclass(frozen=True)
class Architecture:
    """What activations depend on beside the parameters: a decoder of Llama's or Qwen2's kind."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


@dataclass(frozen=True)
class Shapes:
    """Parameter shapes of a model, a tied weight once; which are token embeddings or the head."""

    parameters: Mapping[str, tuple[int, ...]]
    embeddings: frozenset[str] = frozenset()
    dtype_bytes: int = 2
    architecture: Architecture | None = None

    @property
    def numel(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.parameters.values())


@dataclass(frozen=True)
class Cost:
    """Bytes that stay allocated through a stage, bytes on disk, and FLOPs.

    `extra`: what the method itself keeps (a Fisher, a teacher). `flops_per_token`: of the products
    with block matrices in forward and backward (attention and the head, which sees answers only,
    are not counted). `scoring_flops_per_token`: the
    same for a pass over the data before or after training (FGGM's and EWC's Fisher).
    """

    weights: int
    gradients: int
    optimiser: int
    checkpoint: int
    extra: int = 0
    flops_per_token: int = 0
    scoring_flops_per_token: int = 0
    trained: int = 0

    @property
    def total(self) -> int:
        """Bytes of weights, gradients, optimiser state and the method's own state."""
        return self.weights + self.gradients + self.optimiser + self.extra

    def with_extra(self, extra: int) -> Cost:
        """The same with more bytes of the method's own."""
        return replace(self, extra=self.extra + extra)


@dataclass(frozen=True)
class _Part:
    """How much of one parameter is trained: entries, index bytes, and whether that is all of it."""

    trained: int = 0
    index: int = 0
    full: bool = field(default=False)


def shapes_of(model: object) -> Shapes:
    """Shapes of a loaded (or meta-device) Hugging Face model; a tied head appears once."""
    import torch

    parameters = {name: tuple(p.shape) for name, p in model.named_parameters()}  # type: ignore[attr-defined]
    head = model.get_output_embeddings()  # type: ignore[attr-defined]
    skipped = {
        id(parameter)
        for module in model.modules()  # type: ignore[attr-defined]
        if isinstance(module, torch.nn.Embedding) or module is head
        for parameter in module.parameters(recurse=False)
    }
    embeddings = frozenset(n for n, p in model.named_parameters() if id(p) in skipped)  # type: ignore[attr-defined]
    size = next(model.parameters()).element_size()  # type: ignore[attr-defined]
    return Shapes(parameters, embeddings, size, _architecture(model.config))  # type: ignore[attr-defined]


def shapes_from_config(path: str, dtype_bytes: int = 2) -> Shapes:
    """Shapes of the model that a Hugging Face name or folder describes, from its config alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return replace(shapes_of(model), dtype_bytes=dtype_bytes)


def _architecture(config: object) -> Architecture | None:
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    values = [getattr(config, name, None) for name in (*names, "vocab_size")]
    if not all(isinstance(value, int) for value in values):
        return None
    layers, hidden, intermediate, heads, vocabulary = (int(value) for value in values if value)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(config, "head_dim", None) or hidden // heads)
    return Architecture(layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary)


def full_cost(shapes: Shapes) -> Cost:
    """Everything trained."""
    return _cost(shapes, lambda name, shape: _Part(math.prod(shape), full=True))


def masked_cost(shapes: Shapes, trained: float, granularity: str, embeddings: bool) -> Cost:
    """A share `trained` of each block matrix (rows, columns or elements) and vector.

    Counts as `score > quantile(1 - trained)` leaves them. `embeddings`: token embeddings and head
    are trained fully, else frozen. Scoring is one Fisher pass over the data without any weight
    gradient (rows, columns) or with one (elements).
    """

    def part(name: str, shape: tuple[int, ...]) -> _Part:
        if name in shapes.embeddings:
            return _Part(math.prod(shape), full=True) if embeddings else _Part()
        if len(shape) != 2 or granularity == "elements":
            count = _above(math.prod(shape), trained)
            return _Part(count, _ELEMENT_INDEX * count)
        rows, columns = shape
        if granularity == "columns":
            count = _above(columns, trained)
            return _Part(count * rows, _INDEX * count)
        count = _above(rows, trained)
        return _Part(count * columns, _INDEX * count)

    cost = _cost(shapes, part)
    products = sum(
        math.prod(shape) for name, shape in shapes.parameters.items() if _is_product(shapes, name)
    )
    dense = 6 if granularity == "elements" else 4
    flops = cost.flops_per_token
    if granularity == "elements":  # the whole weight gradient is computed, then gathered
        flops = 6 * products
    return replace(cost, flops_per_token=flops, scoring_flops_per_token=dense * products)


def frozen_cost(shapes: Shapes, trained: Callable[[str], bool]) -> Cost:
    """Some parameters trained fully, the others not at all."""
    return _cost(
        shapes, lambda name, shape: _Part(math.prod(shape), full=True) if trained(name) else _Part()
    )


def lora_cost(shapes: Shapes, r: int, targets: Sequence[str], adapter_bytes: int = 4) -> Cost:
    """Adapters of rank `r` on the named projections; the base is frozen.

    PEFT keeps adapters in float32 (`adapter_bytes` 4), where they are their own masters.
    """
    wanted = set(targets)
    adapted = [
        shape
        for name, shape in shapes.parameters.items()
        if len(shape) == 2 and name.split(".")[-2:-1] and name.split(".")[-2] in wanted
    ]
    count = r * sum(sum(shape) for shape in adapted)
    base = _cost(shapes, lambda name, shape: _Part())
    masters = 0 if adapter_bytes == _MASTER else _MASTER
    return replace(
        base,
        weights=base.weights + count * adapter_bytes,
        gradients=_MASTER * count,
        optimiser=(masters + _MOMENTS) * count,
        checkpoint=adapter_bytes * count,
        flops_per_token=base.flops_per_token + 6 * count,
        trained=count,
    )


def _is_product(shapes: Shapes, name: str) -> bool:
    """Whether every token is multiplied by the parameter: block matrices, not the head."""
    return len(shapes.parameters[name]) == 2 and name not in shapes.embeddings


def _above(count: int, share: float) -> int:
    """How many of `count` distinct scores lie above their (1 - share)-quantile."""
    return count - 1 - math.floor((1 - share) * (count - 1) + 1e-9)


def _cost(shapes: Shapes, part: Callable[[str, tuple[int, ...]], _Part]) -> Cost:
    weights = shapes.numel * shapes.dtype_bytes
    trained = index = own = flops = 0
    for name, shape in shapes.parameters.items():
        selected = part(name, shape)
        trained += selected.trained
        index += selected.index
        if selected.full and shapes.dtype_bytes == _MASTER:
            own += selected.trained
        if _is_product(shapes, name):
            flops += 4 * math.prod(shape) + 2 * selected.trained
    optimiser = (_MASTER + _MOMENTS) * trained - _MASTER * own + index
    return Cost(weights, _MASTER * trained, optimiser, weights, 0, flops, 0, trained)


def activation_bytes(
    shapes: Shapes,
    samples: int,
    length: int,
    answers: int,
    *,
    checkpointing: bool = False,
    vectors: bool = True,
    padded: bool = True,
    widened: bool = False,
) -> int:
    """Bytes that autograd keeps from forward for backward, for one micro-batch.

    `samples` sequences of `length` tokens, `answers` answer tokens in all. Per token and layer of a
    Llama-like decoder under SDPA: two norms keep their input in float32, their output, and the
    normalised input where norm weights are trained (`vectors`); attention keeps query, key, value
    and its output, and under padding (`padded`) a float32 mask and keys and values once per query
    head; the MLP keeps gate, activation, up and their product. Logits are kept once, at answers
    only. With checkpointing one hidden vector a layer is kept, and one layer is whole at a time.
    `widened`: attention runs in float32 (CPUs without bf16 units). Raises ValueError where the
    architecture is not known.
    """
    a = shapes.architecture
    if a is None:
        raise ValueError("activations are known for Llama-like architectures only")
    size, tokens = shapes.dtype_bytes, samples * length
    query = a.heads * a.head_dim
    keys = query if padded else a.kv_heads * a.head_dim
    norm = a.hidden * (4 + size + (size if vectors else 0)) + 4
    attention = (4 if widened else size) * (2 * query + 2 * keys) + 4 * a.heads
    if widened:
        attention += size * query
    mask = 4 * samples * length**2 if padded else 0
    layer = tokens * (2 * norm + attention + 4 * a.intermediate * size) + mask
    head = tokens * norm + answers * (a.hidden + a.vocabulary) * size
    if checkpointing:
        return a.layers * tokens * a.hidden * size + layer + head
    return a.layers * layer + head
