"""What training some of a model's parameters costs, from their shapes alone.

Pure functions of shapes: `cl-bench plan` asks before model or data exist. The figures are those of
training/selective_update.py: weights in the run's dtype, and for every trained entry a float32
gradient, master and two moments (float64 in float64 models; a fully trained weight of the master's
dtype is its own master). Tests compare them with the bytes that are held.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cl_bench.costs.added import MASK_BYTES, Cost, Disk, Memory
from cl_bench.costs.kept_selection import choice_bytes
from cl_bench.costs.quantiles import above_quantile
from cl_bench.costs.shapes import Shapes
from cl_bench.models.layouts import Shape, patterns

_INDEX = 8  # rows and columns are int64, one for each
_ELEMENT_INDEX = 4  # int32, one for each selected entry


@dataclass(frozen=True)
class Unsplit:
    """Bytes, of those in `Trained`, that every process holds with `train.shard`: of vectors and
    adapters. `own_masters`: of weights that are their own masters only as long as they are whole.
    """

    weights: int = 0
    gradients: int = 0
    optimiser: int = 0
    own_masters: int = 0


@dataclass(frozen=True)
class Trained:
    """Bytes and FLOPs of training that part of a model's parameters, without a method's own.

    `checkpoint`: bytes that a stage leaves on disk, weights or adapter, without tokenizer files.
    `flops_per_token`: of the products with block matrices in forward and backward (attention and
    the head, which sees answers only, are not counted); `forward_flops` of a forward pass without
    gradient. `entries`: how many move. `inputs_kept`: parameters whose gradient needs their layer's
    input, so that activations stay. `adapters`: shapes of what is added to the model, when that
    alone is trained. `adds`: what choosing this part takes in addition (masks, remarks). `grown`:
    the shapes of the model that is trained, where it is a larger one than the base model. `lowest`:
    number of the decoder layer below which nothing is trained, so that no gradient passes. `delta`:
    bytes at most of what differs after a stage (`checkpoints: delta`), with what says where; None:
    as many as the checkpoint has. `indices`: of `optimiser`, which rows, columns or entries it is.
    """

    weights: int
    gradients: int
    optimiser: int
    checkpoint: int
    flops_per_token: int
    forward_flops: int
    entries: int
    inputs_kept: frozenset[str] = frozenset()
    adapters: Mapping[str, Shape] = field(default_factory=dict)
    adds: Cost = field(default_factory=Cost)
    grown: Shapes | None = None
    lowest: int = 0
    delta: int | None = None
    unsplit: Unsplit = Unsplit()
    indices: int = 0


@dataclass(frozen=True)
class _Part:
    """How much of one parameter is trained: entries, index bytes, and whether that is all of it."""

    trained: int = 0
    index: int = 0
    full: bool = False


_NOTHING = _Part()


def _all(name: str, shape: Shape) -> _Part:
    return _Part(math.prod(shape), full=True)


def everything(shapes: Shapes) -> Trained:
    """Everything trained."""
    return _trained(shapes, _all)


def only(shapes: Shapes, trained: Callable[[str], bool]) -> Trained:
    """Some parameters trained fully, the others not at all."""
    found = _trained(shapes, lambda name, shape: _all(name, shape) if trained(name) else _NOTHING)
    return replace(found, adds=Cost(disk=Disk(selection=choice_bytes(shapes, lambda *_: 0))))


def masked(
    shapes: Shapes,
    alpha: float,
    granularity: str,
    embeddings: bool,
    masks_embeddings: bool = False,
) -> Trained:
    """A share `1 - alpha` of each block matrix (rows, columns or elements) and vector.

    Counts as `score > quantile(alpha)` leaves them. `embeddings`: token embeddings and head are
    trained fully, else frozen; with `masks_embeddings` they are masked as the others. Single
    entries need their layer's whole weight gradient, so they save no FLOPs; their masks are held.
    Nor do layers save FLOPs that are not linear ones (experts, convolutions, routers).
    """
    masks, choices = 0, dict[str, int]()

    def part(name: str, shape: Shape) -> _Part:
        nonlocal masks
        if name in shapes.embeddings and not masks_embeddings:
            return _all(name, shape) if embeddings else _NOTHING
        layout, entries = shapes.layout(name), math.prod(shape)
        if not entries:
            return _NOTHING
        scores = math.prod(layout.score_shape(shape, granularity))
        choices[name] = scores
        stacked = shape[0] if layout.stack else 1
        count = stacked * above_quantile(scores // stacked, alpha)
        if layout.is_matrix and granularity != "elements":
            return _Part(count * (entries // scores), _INDEX * count)
        masks += MASK_BYTES * entries
        count *= entries // scores
        return _Part(count, _ELEMENT_INDEX * count)

    found = _trained(shapes, part)
    kept = Disk(selection=choice_bytes(shapes, lambda name, _: choices.get(name, 0)))
    found = replace(found, adds=Cost(Memory(held=masks), disk=kept, remarks=_dense_remark(shapes)))
    if granularity == "elements":
        return replace(found, flops_per_token=6 * shapes.products)
    return found


def lora_adapters(
    shapes: Shapes,
    r: int,
    targets: str | Sequence[str],
    dropout: float = 0.0,
    magnitudes: bool = False,
) -> Trained:
    """Adapters of rank `r` in the run's dtype on the targeted projections; the base is frozen.

    `targets` as PEFT reads them: last parts of module names, a pattern for whole names, or
    `all-linear` (all but the head). Only the adapter is saved. For layers of Linear's layout.
    `magnitudes`: DoRA's, one for each output unit, too.
    """
    adapted = [n for n, s in shapes.parameters.items() if len(s) == 2 and _targeted(n, targets)]
    if targets == "all-linear":
        adapted = [name for name in adapted if shapes.is_product(name)]
    pairs: dict[str, Shape] = {}
    for name in adapted:
        rows, columns = shapes.parameters[name]
        if name in shapes.embeddings and not name.endswith("lm_head.weight"):
            rows, columns = columns, rows  # a lookup: from a token to its vector
        pairs[f"{name}.lora_A"] = (r, columns)
        pairs[f"{name}.lora_B"] = (rows, r)
        if magnitudes:
            pairs[f"{name}.lora_magnitude_vector"] = (rows,)
    beside = [name for name in adapted if name in shapes.embeddings]
    found = adapters(shapes, pairs, frozenset(f"{n}.lora_{ab}" for n in beside for ab in "AB"))
    inputs = sum(shapes.parameters[name][1] for name in adapted)
    per_token = shapes.dtype_bytes * (r * len(adapted) + (2 * inputs if dropout else 0))
    kept = frozenset() if dropout else frozenset(adapted)
    return replace(found, inputs_kept=kept, adds=Cost(Memory(per_token=per_token)))


def adapters(
    shapes: Shapes, added: Mapping[str, Shape], beside: frozenset[str] = frozenset()
) -> Trained:
    """The base frozen, and matrices of these names and shapes added to it, trained and saved.

    `beside`: those of embeddings and head, whose products are not counted. Activations are not.
    """
    base = _trained(shapes, lambda name, shape: _NOTHING)
    own = everything(replace(shapes, parameters=added, embeddings=beside, layouts={}))
    return replace(
        own,
        weights=base.weights + own.weights,
        flops_per_token=base.flops_per_token + own.flops_per_token,
        forward_flops=base.forward_flops + own.forward_flops,
        adapters=added,
        delta=None,
        unsplit=Unsplit(
            base.unsplit.weights + own.weights, own.gradients, own.optimiser, own_masters=0
        ),
    )


def _targeted(name: str, targets: str | Sequence[str]) -> bool:
    module = name.removesuffix(".weight")
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, module) is not None
    return any(f".{module}".endswith(f".{target}") for target in targets)


def _dense_remark(shapes: Shapes) -> tuple[str, ...]:
    """Which matrices are masked without saving FLOPs."""
    dense = [n for n, layout in shapes.layouts.items() if not layout.selective and layout.inputs]
    if not dense:
        return ()
    return (f"masked without saving FLOPs (no linear layers): {', '.join(patterns(dense))}",)


def _trained(shapes: Shapes, part: Callable[[str, Shape], _Part]) -> Trained:
    parts = {name: part(name, shape) for name, shape in shapes.parameters.items()}
    entry, trained = shapes.entry_bytes, sum(p.trained for p in parts.values())
    own = sum(p.trained for p in parts.values() if p.full and shapes.dtype_bytes == entry)
    multiplied = 0  # a layer that is no linear one has its whole gradient computed
    for name, p in parts.items():
        whole = p.trained > 0 and not shapes.layout(name).selective
        multiplied += shapes.active(
            name, math.prod(shapes.parameters[name]) if whole else p.trained
        )
    weights = shapes.numel * shapes.dtype_bytes
    vectors = {name: p for name, p in parts.items() if len(shapes.parameters[name]) < 2}
    of_vectors = sum(p.trained for p in vectors.values())
    own_of_vectors = sum(
        p.trained for p in vectors.values() if p.full and shapes.dtype_bytes == entry
    )
    unsplit = Unsplit(
        weights=shapes.dtype_bytes * sum(math.prod(shapes.parameters[n]) for n in vectors),
        gradients=entry * of_vectors,
        optimiser=entry * (3 * of_vectors - own_of_vectors)
        + sum(p.index for p in vectors.values()),
        own_masters=entry * (own - own_of_vectors),
    )
    return Trained(
        unsplit=unsplit,
        weights=weights,
        gradients=entry * trained,
        optimiser=entry * (3 * trained - own) + sum(p.index for p in parts.values()),
        indices=sum(p.index for p in parts.values()),
        checkpoint=weights,
        flops_per_token=4 * shapes.products + 2 * multiplied,
        forward_flops=2 * shapes.products,
        entries=trained,
        inputs_kept=frozenset(name for name, p in parts.items() if p.trained),
        delta=sum(
            p.trained * shapes.dtype_bytes
            + min(p.index, -(-math.prod(shapes.parameters[name]) // 8))
            for name, p in parts.items()
        ),
    )
