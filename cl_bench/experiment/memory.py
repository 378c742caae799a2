"""Memory that does not suffice in training: smaller micro-batches, or what to set.

An update is done again from its start: its gradients are dropped, the generators put back, the
method told (`begin_again`). The effective batch stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_bench.device_memory import first_line, free_memory, out_of_memory
from cl_bench.errors import RunError
from cl_bench.experiment.batcher import Batcher
from cl_bench.experiment.finite import where
from cl_bench.experiment.midway.course import Course
from cl_bench.experiment.midway.generators import generators, set_generators
from cl_bench.methods.base import Method, Stage, overrides
from cl_bench.methods.state import parts_of
from cl_bench.training.selective_update import SelectiveUpdate

if TYPE_CHECKING:
    from cl_bench.config.schema import TrainConfig

NOTE = "out_of_memory"
"""Key of `stage.notes`: in which `updates`, and into how many `pieces` micro-batches were cut."""
GO_ON = "and run the same command again: what is complete is kept"


class OutOfMemoryError(Exception):
    """In an update, of some process; known in all of them."""

    def __init__(self, reason: str, smaller: bool) -> None:
        self.reason = reason
        self.smaller = smaller
        """Whether the micro-batches that were too large can be cut."""
        super().__init__(reason)


class Watching:
    """Which parts of a method have put hooks into the model: those may gather over an update."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def prepare(self, stage: Stage, method: Method) -> None:
        """`prepare` of every part, in order, with a look at the model's hooks around each."""
        for part in parts_of(method):
            before = _hooks(stage.model)
            part.prepare(stage)
            if _hooks(stage.model) > before and not overrides(type(part), "begin_again"):
                self._names.append(part.name)

    def fault(self, method: Method) -> str | None:
        """Tell the method that an update begins again; why it cannot."""
        unable = [part.name for part in parts_of(method) if not part.begin_again()]
        if names := list(dict.fromkeys([*unable, *self._names])):
            return (
                f"method {', '.join(names)} does not say how an update is begun again "
                "(`begin_again`)"
            )
        return None


def _hooks(model: Any) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )


@dataclass
class Halving:
    """Makes micro-batches smaller while memory does not suffice for one of them."""

    stage: Stage
    method: Method
    watching: Watching
    batcher: Batcher
    course: Course
    say: Callable[[str], None]

    def until_it_fits(self, engine: SelectiveUpdate, work: Callable[[], float]) -> float:
        """What `work`, the backward passes of an update, returns; done again in smaller parts.

        All processes do the same. Raises RunError where parts cannot be smaller.
        """
        while True:
            drawn = generators(self.stage.device)
            try:
                return work()
            except OutOfMemoryError as error:
                # What failed is held by the error's traceback, as long as there is one.
                failed = OutOfMemoryError(error.reason, error.smaller)
            self._halve(failed)
            engine.drop_gradients()
            set_generators(*drawn, self.stage.device)
            free_memory(self.stage.device)

    def _halve(self, error: OutOfMemoryError) -> None:
        stage, update = self.stage, self.course.done + 1
        what = f"out of memory in update {update} ({error.reason})"
        if stage.train.micro_batch_size != "auto" or not error.smaller:
            alone = "" if error.smaller else ", with one example in a forward pass"
            raise RunError(f"{where(stage)}: {what}{alone}; {advice(stage.train)}")
        if fault := self.watching.fault(self.method):
            raise RunError(
                f"{where(stage)}: {what}; micro-batches are not made smaller, since {fault}; "
                f"{advice(stage.train)}"
            )
        self.course.pieces *= 2
        self.batcher.pieces = self.course.pieces
        kept = stage.notes.setdefault(NOTE, {"updates": []})
        kept["updates"].append(update)
        kept["pieces"] = self.course.pieces
        self.say(
            f"{what}: from here on each micro-batch is cut into {self.course.pieces}, and "
            f"batch_size stays {stage.train.batch_size}"
        )


def advice(train: TrainConfig) -> str:
    """What needs less memory in training; a run goes on with it."""
    smaller = []
    if train.micro_batch_size == "auto":
        smaller.append(f"a smaller micro_batch_tokens (now {train.micro_batch_tokens})")
        smaller.append("micro_batch_size: 1")
    elif train.micro_batch_size > 1:
        smaller.append(f"a smaller micro_batch_size (now {train.micro_batch_size}), or auto")
    if not train.gradient_checkpointing:
        smaller.append("gradient_checkpointing: true")
    shorter = f"shorter prompts (max_prompt_tokens, now {train.max_prompt_tokens})"
    if not smaller:
        return f"set {shorter} under another name:"
    return f"set {' or '.join(smaller)} {GO_ON}; {shorter} make another experiment (name:)"


@contextmanager
def enough_memory(place: str, remedy: str) -> Iterator[None]:
    """Where memory does not suffice inside, a RunError says so with the remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise RunError(f"{place}: out of memory ({first_line(error)}); {remedy}") from error
