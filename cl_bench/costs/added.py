"""What a method adds to training, as three small records that are summed: memory, work and disk.

Methods return a `Cost` from `adds`; the parts of a composition are added up. The words for what
methods usually do are here: a teacher, another gradient, tensors that are kept, a Fisher.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

from cl_bench.costs.kept_selection import score_memory
from cl_bench.costs.shapes import Shapes

MASK_BYTES = 1
"""The plan of single entries is a bool for every entry, kept through the stage."""


@dataclass(frozen=True)
class Pass:
    """A pass over the stage's examples apart from training (a Fisher), and its FLOPs a token.

    `examples`: how many of the stage's examples it sees; None is all. `held`: bytes in addition to
    weights and activations; gradients and optimiser state do not exist then; `split` of them are
    divided over processes with `train.shard`, `movable` in main memory with `train.offload:
    [method]`. `by_length`: (a, b)
    where another way takes `a + b * length` FLOPs a token of an example, and the cheaper is taken.
    """

    flops_per_token: int
    examples: int | None = None
    held: int = 0
    split: int = 0
    movable: int = 0
    by_length: tuple[int, int] | None = None

    def flops(self, length: float) -> float:
        """FLOPs a token of an example of `length` tokens."""
        if self.by_length is None:
            return self.flops_per_token
        return min(self.flops_per_token, self.by_length[0] + self.by_length[1] * length)


@dataclass(frozen=True)
class Memory:
    """Bytes of one process that a method adds, through the whole of training.

    `held`: tensors of its own (a Fisher, a teacher, masks), `held_each` so many more bytes for
    every earlier stage. `gradients`: how many more gradients of all that is trained exist at once
    within an update, `gradients_each` so many more for every earlier stage. `per_token`:
    activations of layers of its own, for a token of a micro-batch. `watched`: it has hooks on the
    model's layers, so that the last MLP sees all positions. `split`: of `held`, what is divided
    over processes as the weights are (`train.shard`). `movable`, `movable_each`: of `held` and
    `held_each`, what is in main memory with `train.offload: [method]`.
    """

    held: int = 0
    held_each: int = 0
    gradients: int = 0
    gradients_each: int = 0
    per_token: int = 0
    watched: bool = False
    split: int = 0
    movable: int = 0
    movable_each: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.held + other.held,
            self.held_each + other.held_each,
            self.gradients + other.gradients,
            self.gradients_each + other.gradients_each,
            self.per_token + other.per_token,
            self.watched or other.watched,
            self.split + other.split,
            self.movable + other.movable,
            self.movable_each + other.movable_each,
        )


@dataclass(frozen=True)
class Work:
    """What a method has computed in addition to one forward and backward pass a training token.

    For every token that is trained on: `per_token` FLOPs, `forwards` passes without gradient (a
    teacher's) and `gradients` forward and backward passes. `per_update`: examples of another
    forward and backward pass at every update (a memory), `per_update_each` of every earlier stage.
    In each epoch: `earlier`, a share of the examples of every earlier stage, and so many other
    `examples`; once in the stage `earlier_once` and `examples_once`. `generated`: tokens of a stage
    that the model generates, with those of their prompts. `passes`: over the stage's examples,
    before or after training.
    """

    per_token: int = 0
    forwards: float = 0.0
    gradients: float = 0.0
    per_update: int = 0
    per_update_each: int = 0
    earlier: float = 0.0
    examples: int = 0
    earlier_once: float = 0.0
    examples_once: int = 0
    generated: int = 0
    passes: tuple[Pass, ...] = ()

    def __add__(self, other: Work) -> Work:
        return Work(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


@dataclass(frozen=True)
class Outputs:
    """Of so many examples of every task so far something is stored for each answer token."""

    examples: int
    token_bytes: int


@dataclass(frozen=True)
class Disk:
    """What a method leaves beside the checkpoint of a stage.

    `state`: bytes that it keeps for the next stage, `state_each` so many more for every earlier
    stage. `models`: further models with all weights; the one of the hook `scored` is counted
    without being said. `selection`: bytes of what it chose and of the scores behind that, for
    `cl-bench inspect`. `outputs`: what is as large as answers are.
    """

    state: int = 0
    models: int = 0
    state_each: int = 0
    selection: int = 0
    outputs: tuple[Outputs, ...] = ()

    def __add__(self, other: Disk) -> Disk:
        return Disk(
            self.state + other.state,
            self.models + other.models,
            self.state_each + other.state_each,
            self.selection + other.selection,
            self.outputs + other.outputs,
        )


@dataclass(frozen=True)
class Cost:
    """What a method adds; `Cost() + Cost()` is what two add. `Cost()` is nothing.

    `remarks`: what a user must know of this method with this model (weights that it cannot reach);
    `cl-bench plan` prints them.
    """

    memory: Memory = field(default_factory=Memory)
    work: Work = field(default_factory=Work)
    disk: Disk = field(default_factory=Disk)
    remarks: tuple[str, ...] = ()

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.memory + other.memory,
            self.work + other.work,
            self.disk + other.disk,
            self.remarks + other.remarks,
        )


def kept(nbytes: int, *, saved: bool = False) -> Cost:
    """Tensors held through training; `saved`: they are the method's state on disk as well."""
    return Cost(Memory(held=nbytes), disk=Disk(state=nbytes if saved else 0))


def teacher(shapes: Shapes, forwards: float = 1.0) -> Cost:
    """A frozen copy of the model, which sees every training token in so many forward passes."""
    return Cost(Memory(held=shapes.model_bytes), Work(forwards=forwards))


def another_gradient(examples: int | None = None) -> Cost:
    """`step.gradient_of` at every update, on so many examples; None is as many as a batch has.

    Two gradients exist in addition: the one set aside meanwhile and the one returned.
    """
    work = Work(gradients=1) if examples is None else Work(per_update=examples)
    return Cost(Memory(gradients=2), work)


def gradient_of_each(examples: int) -> Cost:
    """`step.gradient_of` at every update, on so many examples of every earlier stage in turn.

    All that are returned exist at once, and one is set aside meanwhile.
    """
    return Cost(Memory(gradients=1, gradients_each=1), Work(per_update_each=examples))


def fisher_pass(shapes: Shapes, granularity: str, examples: int | None) -> Pass:
    """The Fisher of block matrices and vectors, in rows, columns or elements.

    With the gradient of every matrix, or for rows and columns by Gram matrices of the positions:
    lower blocks of 128 (importance/products.py), none shared between layers, which is an upper
    bound. Scores of single entries and the masks made of them are held, and what is kept of scores.
    """
    whole = 4 * shapes.products + 2 * (shapes.products - shapes.backbone)
    small = score_memory(shapes, granularity, shapes.is_product)
    if granularity == "elements":
        scored = sum(math.prod(s) for n, s in shapes.parameters.items() if shapes.is_product(n))
        held = (shapes.entry_bytes + MASK_BYTES) * (scored + shapes.backbone)
        return Pass(whole, examples, held=held + small)
    if any(not layout.selective for layout in shapes.layouts.values()):
        return Pass(whole, examples, held=small)  # layers that are scored one sample at a time
    sides = sum(sum(s) for name, s in shapes.parameters.items() if shapes.is_product(name))
    gram = (4 * shapes.products + 128 * sides, sides)
    return Pass(whole, examples, held=small, by_length=gram)


def batch_fisher_pass(shapes: Shapes, granularity: str, examples: int | None) -> Pass:
    """The squared gradients of batches: two whole gradients are held, that of a micro-batch too."""
    one_by_one = fisher_pass(shapes, "elements", examples)
    entries = sum(math.prod(s) for n, s in shapes.parameters.items() if n not in shapes.embeddings)
    held = (shapes.entry_bytes + shapes.dtype_bytes) * entries
    return replace(one_by_one, held=held + one_by_one.held)
