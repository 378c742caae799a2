"""The training loop, written once for every method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from cl_bench.data.batches import epoch_batches
from cl_bench.errors import DivergedError, RunError
from cl_bench.experiment.batcher import Batcher
from cl_bench.experiment.finite import check_finite, excluded_weights, fault_of_weights, where
from cl_bench.experiment.memory import Halving, Watching
from cl_bench.experiment.midway.course import Course
from cl_bench.experiment.midway.saves import Saves
from cl_bench.experiment.phases import model_is_ordinary_by, phases_of
from cl_bench.experiment.update import accumulate, update
from cl_bench.methods.base import Method, Phase, Stage
from cl_bench.methods.static_checks import adapter_fault
from cl_bench.models.checkpoints import is_adapter
from cl_bench.training.idle import Idle
from cl_bench.training.schedule import learning_rate
from cl_bench.training.selections import selection_tensors
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.update_plan import UpdatePlan

OnStep = Callable[[dict[str, Any], int], None]
"""Gets the record of an update (a line of train.jsonl) and how many updates there are so far."""


class Between(Protocol):
    """Something done in the middle of training, when the model is an ordinary one."""

    def due(self, step: int, total: int, ends_epoch: bool) -> bool:
        """Asked before the first update (step 0) and after each."""

    def score(self, record: Mapping[str, Any], model: Any) -> None:
        """Gets the record of the last update; before the first: step, epoch 0 and phase 1."""


def count_updates(examples: int, batch_size: int, epochs: int) -> int:
    """Optimiser updates of a phase; the last batch of an epoch may be smaller."""
    return epochs * -(-examples // batch_size)


def train_stage(
    stage: Stage,
    method: Method,
    batcher: Batcher,
    on_step: OnStep,
    between: Between | None = None,
    saves: Saves | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Train `stage.model` as the method says; it is an ordinary model again afterwards.

    `on_step` gets the record of each update (a line of train.jsonl) and how many there are at the
    end of its phase: later phases may depend on it. With `saves` the training goes on where it was
    interrupted, raises NotSavedError where it cannot, and StoppedError when it is told to stop.
    `say` gets a line where memory did not suffice and micro-batches became smaller.
    """
    watching = Watching()
    watching.prepare(stage, method)
    _refuse_adapters(stage.model, method)
    excluded = excluded_weights(stage.model)
    chosen = method.plan(stage)
    plan = chosen or UpdatePlan()
    if chosen is not None and not is_adapter(stage.model):
        stage.selection = selection_tensors(plan, stage.selection, stage.model)
    stage.mixture = method.examples(stage, stage.examples)
    course, last = Course(), None
    for number, phase in enumerate(phases_of(method, stage)):
        _refuse_adapters(stage.model, method)
        last = phase
        numbers = [stage.number(example) for example in phase.examples]
        updates = count_updates(len(numbers), stage.train.batch_size, phase.epochs)
        course.enter(number, updates)
        if phase.start is not None:
            stage.load(phase.start)
        if saves is not None and saves.ended(stage, method, course):
            batcher.pieces = course.pieces
            continue
        part = plan if phase.plan is None else phase.plan
        halving = Halving(stage, method, watching, batcher, course, say)
        trained = _Phase(stage, method, phase, numbers, part, batcher, course, saves, halving)
        trained.train(on_step, between)
    if last is None:
        raise RunError(f"method {method.name}: phases yields no Phase: a stage has at least one")
    method.finish(stage)
    if dead := course.dead_epochs:
        stage.notes["dead"] = (
            f"the gradient was exactly 0 in every update of epoch {', '.join(dead)}: nothing was "
            "learned there"
        )
    if fault := fault_of_weights(stage, last.examples[:1], batcher, excluded):
        numbers_ = {k: course.record[k] for k in ("loss", "grad_norm", "lr") if k in course.record}
        what = f"diverged in its last update, number {course.done}: {fault}"
        raise DivergedError(where(stage), what, update=course.done, **numbers_)


def _refuse_adapters(model: Any, method: Method) -> None:
    """Adapters that cannot be trained or merged (preflight saw them if the file names them)."""
    if fault := adapter_fault(model):
        raise RunError(f"method {method.name}: {fault}")


def engine_of(stage: Stage, plan: UpdatePlan) -> SelectiveUpdate:
    """The engine that trains a stage's model, its state where `train.offload` says."""
    import torch

    offload = stage.train.offload
    return SelectiveUpdate(
        stage.model,
        plan,
        betas=stage.train.betas,
        device=stage.device if "weights" in offload else None,
        state=torch.device("cpu") if "optimiser" in offload else None,
    )


@dataclass
class _Phase:
    """One pass of the loop over a phase's examples."""

    stage: Stage
    method: Method
    phase: Phase
    numbers: Sequence[int]
    """By which batches name the phase's examples."""
    plan: UpdatePlan
    batcher: Batcher
    course: Course
    saves: Saves | None
    halving: Halving

    def train(self, on_step: OnStep, between: Between | None) -> None:
        """All updates that are not done yet."""
        stage, course, saves = self.stage, self.course, self.saves
        stage.model.train()
        with (
            engine_of(stage, self.plan) as engine,
            model_is_ordinary_by(stage, engine.paused),
            nullcontext()
            if saves is None
            else saves.in_phase(stage, self.method, engine, self.plan, course),
        ):
            self.batcher.pieces = course.pieces
            if course.done == 0 or course.updates:
                self._pause(between)
            for record in self._updates(engine):
                on_step(record, course.total)
                if saves is not None:
                    saves.after_update()
                self._pause(between)
        stage.model.eval()
        if saves is not None:
            saves.after_phase(stage, self.method, engine, course)

    def _pause(self, between: Between | None) -> None:
        """Before the first update of the stage and after each."""
        course = self.course
        begin = {"step": 0, "epoch": 0, "phase": 1}
        record = course.record if course.done else begin
        if between is None or not between.due(course.done, course.total, course.ends_epoch):
            return
        interrupted = nullcontext() if self.saves is None else self.saves.interruptible()
        with interrupted, self.stage.ordinary(), self.method.scored(self.stage) as model:
            between.score(record, model)

    def _updates(self, engine: SelectiveUpdate) -> Iterator[dict[str, Any]]:
        """Do them, and give the line of each. Raises DivergedError."""
        stage, batcher, course = self.stage, self.batcher, self.course
        lr_given = {} if self.phase.lr is None else {"lr": self.phase.lr}
        train = stage.train.model_copy(update=lr_given)
        encoded = batcher.encode(self.phase.examples)
        lengths = [len(item.input_ids) for item in encoded]
        total = count_updates(len(encoded), train.batch_size, self.phase.epochs)
        for epoch, batch, ends_epoch in self._batches(lengths, course.updates):
            lr = learning_rate(train, course.updates, total)
            members = [encoded[i] for i in batch]
            tokens = sum(item.answer_tokens for item in members)

            def collated(part: Sequence[int]) -> dict[str, Any]:
                numbers = [self.numbers[i] for i in part]
                return batcher.collate([encoded[i] for i in part], numbers, isinstance(part, Idle))

            def loss_of_all(batch: Sequence[int] = batch, tokens: int = tokens) -> float:
                parts = batcher.micro(train, batch, lengths)
                return accumulate(stage, self.method, engine, parts, collated, tokens, batcher)

            loss = self.halving.until_it_fits(engine, loss_of_all)
            norm = update(stage, self.method, engine, train, lr, course.updates + 1, batcher)
            check_finite(loss, norm, lr, course.done + 1, stage)
            record = {
                "epoch": epoch + 1,
                "phase": course.phase + 1,
                "loss": loss,
                "lr": lr,
                "grad_norm": norm,
                "answer_tokens": tokens,
                "tokens": sum(len(item.input_ids) for item in members),
                "examples": len(members),
            }
            yield course.count(record, ends_epoch)

    def _batches(
        self, lengths: Sequence[int], done: int
    ) -> Iterator[tuple[int, Sequence[int], bool]]:
        """(epoch from 0, batch, whether it is the epoch's last) of the updates behind `done`."""
        stage, seen = self.stage, 0
        for epoch in range(self.phase.epochs):
            order = epoch_batches(
                lengths,
                batch_size=stage.train.batch_size,
                seed=stage.seed,
                stage=stage.index,
                epoch=epoch + 1000 * self.course.phase,
            )
            for place, batch in enumerate(order, 1):
                seen += 1
                if seen > done:
                    yield epoch, batch, place == len(order)
