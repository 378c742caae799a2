"""What a stage costs: what it trains, and the sum of what its methods add."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Protocol

from cl_bench.costs.added import Cost
from cl_bench.costs.shapes import Shapes
from cl_bench.costs.trained import Trained, everything
from cl_bench.errors import UserError


class Counted(Protocol):
    """What is asked of a method here (`methods/base.py`)."""

    name: ClassVar[str]

    def trains(self, shapes: Shapes) -> Trained | None:
        """The part of the parameters that it restricts training to."""

    def adds(self, shapes: Shapes) -> Cost:
        """What it costs in addition to training that part."""


@dataclass(frozen=True)
class MainMemory:
    """Bytes of one process that `train.offload` has in main memory in place of the card."""

    weights: int = 0
    gradients: int = 0
    masters: int = 0
    """With the moments."""
    method: int = 0

    @property
    def all(self) -> int:
        """Of everything."""
        return self.weights + self.gradients + self.masters + self.method


@dataclass(frozen=True)
class Total:
    """A stage at the fullest it may be: `base` is trained, `added` comes on top.

    `batch_size`: examples of an update, `earlier`: stages before this one, for what is added to
    every update and for every stage. `answers`: of every task so far its examples (None: enough)
    and the tokens of an answer, for outputs that are stored; without it they are not counted.
    `main` is not part of what `base` and `added` say of memory (`costs/offload.py`).
    """

    base: Trained
    added: Cost = field(default_factory=Cost)
    batch_size: int = 1
    earlier: int = 0
    answers: tuple[tuple[int | None, float], ...] = ()
    main: MainMemory = MainMemory()

    def __add__(self, more: Cost) -> Total:
        return replace(self, added=self.added + more)

    @property
    def set_aside(self) -> int:
        """Bytes of the gradients that exist within an update in addition to its own."""
        memory = self.added.memory
        return (memory.gradients + memory.gradients_each * self.earlier) * self.base.gradients

    @property
    def own(self) -> int:
        """Bytes of memory that methods hold in addition to the engine, at most."""
        memory = self.added.memory
        return memory.held + memory.held_each * self.earlier + self.set_aside

    @property
    def in_training(self) -> int:
        """Bytes of memory that training holds, without activations."""
        return self.base.weights + self.base.gradients + self.base.optimiser + self.own

    @property
    def memory(self) -> int:
        """Bytes at the fullest moment: in training, or in a pass before or after it."""
        passes = [self.base.weights + one.held for one in self.added.work.passes]
        return max([self.in_training, *passes])

    @property
    def checkpoint(self) -> int:
        """Bytes that the stage leaves on disk, without tokenizer files."""
        disk = self.added.disk
        models = disk.models * self.base.weights
        return self.base.checkpoint + self.state + models + disk.selection

    @property
    def state(self) -> int:
        """Bytes of that which methods keep for the next stage."""
        disk = self.added.disk
        stored = sum(
            one.token_bytes * tokens * min(one.examples, one.examples if most is None else most)
            for one in disk.outputs
            for most, tokens in self.answers
        )
        return disk.state + disk.state_each * self.earlier + round(stored)

    @property
    def delta(self) -> int:
        """The same where only what differs is stored; of the model that is scored all of it."""
        own = self.base.checkpoint
        return self.checkpoint - own + min(own, own if self.base.delta is None else self.base.delta)

    @property
    def midway(self) -> int:
        """Bytes on disk of what an interrupted training goes on from: engine and methods.

        Twice as much while one save replaces another.
        """
        memory, main = self.added.memory, self.main
        held = memory.held + memory.held_each * self.earlier + main.method
        return 3 * (self.base.gradients + main.gradients) + held

    @property
    def flops_per_token(self) -> int:
        """FLOPs of a token that is trained on; passes and generation are not among them."""
        base, work = self.base, self.added.work
        own = base.flops_per_token + work.per_token
        per_update = work.per_update + work.per_update_each * self.earlier
        gradients = work.gradients + per_update / self.batch_size
        return own + round(gradients * own + work.forwards * base.forward_flops)

    @property
    def generation_flops(self) -> int:
        """FLOPs of what the model generates in the stage."""
        return self.added.work.generated * self.base.forward_flops


def alone(base: Trained) -> Total:
    """What training that part costs, with what choosing it takes."""
    return Total(base, base.adds)


def total(method: Counted, shapes: Shapes, batch_size: int = 1, earlier: int = 0) -> Total:
    """What a stage of a method or composition costs; one that restricts nothing trains everything.

    Where adapters are trained, `adds` sees their shapes alone. Raises UserError for hooks that
    return something else than they should.
    """
    base = method.trains(shapes)
    if base is None:
        base = everything(shapes)
    elif not isinstance(base, Trained):
        raise UserError(_wrong(method, "trains", base, "a Trained (cl_bench/costs/trained.py)"))
    shapes = base.grown or shapes
    added = method.adds(shapes.adapted(base.adapters) if base.adapters else shapes)
    if not isinstance(added, Cost):
        raise UserError(_wrong(method, "adds", added, "a Cost (cl_bench/costs/added.py)"))
    for record in (added.memory, added.work, added.disk):
        for key in fields(record):
            if key.name not in ("passes", "outputs") and getattr(record, key.name) < 0:
                raise UserError(
                    f"method {method.name}: adds: {key.name} is below 0: what a method saves is "
                    "said by trains"
                )
    return Total(base, base.adds + added, batch_size, earlier)


def _wrong(method: Counted, hook: str, given: object, expected: str) -> str:
    return f"method {method.name}: {hook} returned {type(given).__name__}, not {expected}"
