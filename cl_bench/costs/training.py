"""What training costs in bytes and FLOPs, from parameter shapes alone.

Pure functions of shapes: `cl-bench plan` asks before model or data exist. The figures are those of
the engine (engine.py): weights in the run's dtype, and for every trained entry a float32 gradient,
master and two moments (float64 in float64 models); a fully trained weight of the master's dtype is
its own master. Tests compare them with the bytes that are held.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cl_bench.costs.shapes import Shapes
from cl_bench.models.layouts import Shape, patterns

_INDEX = 8  # rows and columns are int64, one for each
_ELEMENT_INDEX = 4  # int32, one for each selected entry
_MASK = 1  # the plan of single entries is a bool for every entry, kept through the stage


@dataclass(frozen=True)
class Pass:
    """A pass over the stage's examples beside training (a Fisher): at most so many FLOPs a token.

    `examples`: how many of the stage's examples it sees; None is all. `held`: bytes beside weights
    and activations; gradients and optimiser state do not exist then. `by_length`: (a, b) where
    another way takes `a + b * length` FLOPs a token of an example, and the cheaper one is taken.
    """

    flops_per_token: int
    examples: int | None = None
    held: int = 0
    by_length: tuple[int, int] | None = None

    def flops(self, length: float) -> float:
        """FLOPs a token of an example of `length` tokens."""
        if self.by_length is None:
            return self.flops_per_token
        return min(self.flops_per_token, self.by_length[0] + self.by_length[1] * length)


def fisher_pass(shapes: Shapes, granularity: str, examples: int | None) -> Pass:
    """The Fisher of block matrices and vectors, in rows, columns or elements.

    With the gradient of every matrix, or for rows and columns by Gram matrices of the positions:
    lower blocks of 128 (importance/products.py), none shared between layers, which is an upper
    bound. Scores of single entries and the masks made of them are held.
    """
    whole = 4 * shapes.products + 2 * (shapes.products - shapes.backbone)
    if granularity == "elements":
        scored = sum(math.prod(s) for n, s in shapes.parameters.items() if shapes.is_product(n))
        held = (shapes.entry_bytes + _MASK) * (scored + shapes.backbone)
        return Pass(whole, examples, held=held)
    if any(not layout.selective for layout in shapes.layouts.values()):
        return Pass(whole, examples)  # layers that are scored one sample at a time
    sides = sum(sum(s) for name, s in shapes.parameters.items() if shapes.is_product(name))
    return Pass(whole, examples, by_length=(4 * shapes.products + 128 * sides, sides))


@dataclass(frozen=True)
class Cost:
    """Bytes that stay allocated through a stage, bytes on disk, and FLOPs.

    `extra`: what the method itself keeps (a Fisher, a teacher, masks). `checkpoint`: what a stage
    leaves on disk, weights and the method's state; tokenizer files come on top. `state`: of that,
    what the method keeps for the next stage. `remarks`: what a user must know of this method with
    this model (weights that it cannot reach); `plan` prints it. `flops_per_token`: of the products
    with block matrices in forward and backward (attention and the head, which sees answers only,
    are not counted); `passes` in the same measure. `trained`: entries that move.
    `inputs_kept`: parameters whose gradient needs their layer's input, so that activations stay;
    `activations_per_token`: bytes that layers of the method's own keep. `earlier_share`: share of
    the examples of every earlier stage that each epoch sees again. `adapters`: shapes of what the
    method adds, when it trains that alone. `watched`: the method has hooks on the model's layers.
    """

    weights: int
    gradients: int
    optimiser: int
    checkpoint: int
    extra: int = 0
    flops_per_token: int = 0
    passes: tuple[Pass, ...] = ()
    trained: int = 0
    inputs_kept: frozenset[str] = frozenset()
    activations_per_token: int = 0
    earlier_share: float = 0.0
    adapters: Mapping[str, Shape] = field(default_factory=dict)
    state: int = 0
    watched: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Bytes of weights and of the larger of two: all that training holds, or a pass."""
        training = self.gradients + self.optimiser + self.extra
        return self.weights + max([training, *(one.held for one in self.passes)])

    def with_extra(self, extra: int, checkpoint: int = 0) -> Cost:
        """The same with more bytes of the method's own, in memory and (its state) on disk."""
        return replace(
            self,
            extra=self.extra + extra,
            checkpoint=self.checkpoint + checkpoint,
            state=self.state + checkpoint,
        )

    def with_pass(self, one: Pass) -> Cost:
        """The same with one more pass over the stage's examples."""
        return replace(self, passes=(*self.passes, one))

    def plus(self, other: Cost, plain: Cost) -> Cost:
        """With what `other` costs beyond `plain` (full training of the same shapes) added."""
        return replace(
            self.with_extra(other.extra, max(0, other.checkpoint - plain.checkpoint)),
            flops_per_token=self.flops_per_token
            + max(0, other.flops_per_token - plain.flops_per_token),
            passes=self.passes + other.passes,
            activations_per_token=self.activations_per_token + other.activations_per_token,
            earlier_share=self.earlier_share + other.earlier_share,
            watched=self.watched or other.watched,
            remarks=self.remarks + other.remarks,
        )


@dataclass(frozen=True)
class _Part:
    """How much of one parameter is trained: entries, index bytes, and whether that is all of it."""

    trained: int = 0
    index: int = 0
    full: bool = False


_NOTHING = _Part()


def _all(name: str, shape: Shape) -> _Part:
    return _Part(math.prod(shape), full=True)


def full_cost(shapes: Shapes) -> Cost:
    """Everything trained."""
    return _cost(shapes, _all)


def frozen_cost(shapes: Shapes, trained: Callable[[str], bool]) -> Cost:
    """Some parameters trained fully, the others not at all."""
    return _cost(shapes, lambda name, shape: _all(name, shape) if trained(name) else _NOTHING)


def masked_cost(shapes: Shapes, trained: float, granularity: str, embeddings: bool) -> Cost:
    """A share `trained` of each block matrix (rows, columns or elements) and vector.

    Counts as `score > quantile(1 - trained)` leaves them. `embeddings`: token embeddings and head
    are trained fully, else frozen. Single entries need their layer's whole weight gradient, so
    they save no FLOPs; their masks are counted as `extra`. Nor do layers save FLOPs that are not
    linear ones (experts, convolutions, routers).
    """
    masks = 0

    def part(name: str, shape: Shape) -> _Part:
        nonlocal masks
        if name in shapes.embeddings:
            return _all(name, shape) if embeddings else _NOTHING
        layout, entries = shapes.layout(name), math.prod(shape)
        if not entries:
            return _NOTHING
        scores = math.prod(layout.score_shape(shape, granularity))
        stacked = shape[0] if layout.stack else 1
        count = stacked * _above(scores // stacked, trained)
        if layout.is_matrix and granularity != "elements":
            return _Part(count * (entries // scores), _INDEX * count)
        masks += _MASK * entries
        count *= entries // scores
        return _Part(count, _ELEMENT_INDEX * count)

    cost = replace(_cost(shapes, part).with_extra(masks), remarks=_dense_remark(shapes))
    if granularity == "elements":
        return replace(cost, flops_per_token=6 * shapes.products)
    return cost


def lora_cost(shapes: Shapes, r: int, targets: str | Sequence[str], dropout: float = 0.0) -> Cost:
    """Adapters of rank `r` in the run's dtype on the targeted projections; the base is frozen.

    `targets` as PEFT reads them: last parts of module names, a pattern for whole names, or
    `all-linear` (all but the head). Only the adapter is saved. For layers of Linear's layout.
    """
    adapted = [n for n, s in shapes.parameters.items() if len(s) == 2 and _targeted(n, targets)]
    if targets == "all-linear":
        adapted = [name for name in adapted if shapes.is_product(name)]
    adapters: dict[str, Shape] = {}
    for name in adapted:
        rows, columns = shapes.parameters[name]
        if name in shapes.embeddings and not name.endswith("lm_head.weight"):
            rows, columns = columns, rows  # a lookup: from a token to its vector
        adapters[f"{name}.lora_A"] = (r, columns)
        adapters[f"{name}.lora_B"] = (rows, r)
    beside = [name for name in adapted if name in shapes.embeddings]
    cost = adapter_cost(
        shapes, adapters, frozenset(f"{n}.lora_{ab}" for n in beside for ab in "AB")
    )
    inputs = sum(shapes.parameters[name][1] for name in adapted)
    per_token = shapes.dtype_bytes * (r * len(adapted) + (2 * inputs if dropout else 0))
    kept = frozenset() if dropout else frozenset(adapted)
    return replace(cost, inputs_kept=kept, activations_per_token=per_token)


def adapter_cost(
    shapes: Shapes, adapters: Mapping[str, Shape], beside: frozenset[str] = frozenset()
) -> Cost:
    """The base frozen, and matrices beside it trained and saved, of these names and shapes.

    `beside`: those of embeddings and head, whose products are not counted. Activations are not.
    """
    base = _cost(shapes, lambda name, shape: _NOTHING)
    own = full_cost(replace(shapes, parameters=adapters, embeddings=beside, layouts={}))
    return replace(
        own,
        weights=base.weights + own.weights,
        flops_per_token=base.flops_per_token + own.flops_per_token,
        adapters=adapters,
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


def _above(count: int, share: float) -> int:
    """How many of `count` distinct scores lie above their (1 - share)-quantile."""
    return count - 1 - math.floor((1 - share) * (count - 1) + 1e-9)


def _cost(shapes: Shapes, part: Callable[[str, Shape], _Part]) -> Cost:
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
    return Cost(
        weights=weights,
        gradients=entry * trained,
        optimiser=entry * (3 * trained - own) + sum(p.index for p in parts.values()),
        checkpoint=weights,
        flops_per_token=4 * shapes.products + 2 * multiplied,
        trained=trained,
        inputs_kept=frozenset(name for name, p in parts.items() if p.trained),
    )
