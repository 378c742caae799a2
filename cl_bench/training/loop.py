"""The training loop, written once for every method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cl_bench.data.batches import collate, epoch_batches, for_process, micro_batches
from cl_bench.errors import RunError
from cl_bench.methods.base import Method, Phase, Stage, Step
from cl_bench.processes import Processes
from cl_bench.training.engine import SelectiveUpdate
from cl_bench.training.loss import answer_loss
from cl_bench.training.plan import UpdatePlan
from cl_bench.training.schedule import learning_rate

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cl_bench.config import TrainConfig
    from cl_bench.data.examples import Example
    from cl_bench.data.tokens import Encoded


@dataclass(frozen=True)
class Batcher:
    """Turns examples into padded batches on the device, the same way for everything."""

    encode: Callable[[Sequence[Example]], list[Encoded]]
    pad_id: int
    padding: Mapping[str, Any]
    device: torch.device
    processes: Processes

    def collate(self, encoded: Sequence[Encoded]) -> dict[str, Tensor]:
        """Padded `input_ids`, `attention_mask`, `labels` [B, T]."""
        import torch

        batch = collate(encoded, self.pad_id, **self.padding)
        return {
            name: value.to(self.device)
            for name, value in batch.items()
            if isinstance(value, torch.Tensor)
        }

    def share(self, train: TrainConfig, examples: Sequence[Example]) -> Iterator[dict[str, Tensor]]:
        """This process's part of `examples`, every example once, short ones together."""
        encoded = self.encode(examples)
        lengths = [len(item.input_ids) for item in encoded]
        order = sorted(range(len(encoded)), key=lambda i: (lengths[i], i))
        for micro in self.micro(train, order, lengths):
            yield self.collate([encoded[i] for i in micro])

    def micro(
        self, train: TrainConfig, batch: Sequence[int], lengths: Sequence[int]
    ) -> list[list[int]]:
        """The micro-batches of `batch` that belong to this process."""
        parts = micro_batches(batch, lengths, train.micro_batch_size, train.micro_batch_tokens)
        return for_process(parts, self.processes.rank, self.processes.world)


class Between(Protocol):
    """Something done in the middle of training, when the model is an ordinary one."""

    def due(self, step: int, total: int, ends_epoch: bool) -> bool:
        """Asked before the first update (step 0) and after each."""

    def score(self, record: Mapping[str, Any]) -> None:
        """Gets the record of the last update; before the first: step, epoch 0 and phase 1."""


def count_updates(examples: int, batch_size: int, epochs: int) -> int:
    """Optimiser updates of a phase; the last batch of an epoch may be smaller."""
    return epochs * -(-examples // batch_size)


def train_stage(
    stage: Stage,
    method: Method,
    epochs: int,
    batcher: Batcher,
    on_step: Callable[[dict[str, Any], int], None],
    between: Between | None = None,
) -> None:
    """Train `stage.model` as the method says; it is an ordinary model again afterwards.

    `on_step` gets the record of each update (a line of train.jsonl) and the updates in all.
    """
    method.prepare(stage)
    plan = method.plan(stage) or UpdatePlan()
    examples = method.examples(stage, stage.examples)
    phases = method.phases(stage, examples, epochs) or [Phase(examples, epochs)]
    total = sum(count_updates(len(p.examples), stage.train.batch_size, p.epochs) for p in phases)
    begin = _snapshot(stage.model) if any(p.start == "stage" for p in phases) else None
    done = 0
    stage.model.train()
    for number, phase in enumerate(phases):
        if begin is not None and phase.start == "stage":
            stage.model.load_state_dict(begin)
        with SelectiveUpdate(stage.model, plan, betas=stage.train.betas) as engine:
            if done == 0:
                _pause(engine, between, {"step": 0, "epoch": 0, "phase": 1}, total, False)
            for record, ends_epoch in _phase(stage, method, engine, phase, number, batcher):
                done += 1
                on_step({"step": done, **record}, total)
                _pause(engine, between, {"step": done, **record}, total, ends_epoch)
    stage.model.eval()
    method.finish(stage)


def _pause(
    engine: SelectiveUpdate,
    between: Between | None,
    record: dict[str, Any],
    total: int,
    ends_epoch: bool,
) -> None:
    if between is not None and between.due(record["step"], total, ends_epoch):
        with engine.paused():
            between.score(record)


def _snapshot(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _phase(
    stage: Stage,
    method: Method,
    engine: SelectiveUpdate,
    phase: Phase,
    number: int,
    batcher: Batcher,
) -> Iterator[tuple[dict[str, Any], bool]]:
    """The record of each update, and whether it ends an epoch."""
    train = stage.train
    encoded = batcher.encode(phase.examples)
    lengths = [len(item.input_ids) for item in encoded]
    total = count_updates(len(encoded), train.batch_size, phase.epochs)
    done = 0
    for epoch in range(phase.epochs):
        order = epoch_batches(
            lengths,
            batch_size=train.batch_size,
            seed=stage.seed,
            stage=stage.index,
            epoch=epoch + 1000 * number,
        )
        for place, batch in enumerate(order, 1):
            lr = learning_rate(train, done, total)
            members = [encoded[i] for i in batch]
            tokens = sum(item.answer_tokens for item in members)
            parts = batcher.micro(train, batch, lengths)
            loss = _accumulate(stage, method, engine, encoded, parts, tokens, batcher)
            norm = _update(stage, method, engine, train, lr, done + 1, batcher)
            done += 1
            _check_finite(loss, norm, done, stage)
            record = {
                "epoch": epoch + 1,
                "phase": number + 1,
                "loss": loss,
                "lr": lr,
                "grad_norm": norm,
                "answer_tokens": tokens,
                "tokens": sum(len(item.input_ids) for item in members),
                "examples": len(members),
            }
            yield record, place == len(order)


def _accumulate(
    stage: Stage,
    method: Method,
    engine: SelectiveUpdate,
    encoded: Sequence[Encoded],
    parts: Sequence[Sequence[int]],
    tokens: int,
    batcher: Batcher,
) -> float:
    """Backward over this process's micro-batches; returns the loss of the whole update.

    The mean is over the answer tokens of the effective batch, so the split does not matter.
    """
    import torch

    total = torch.zeros((), dtype=torch.float64, device=batcher.device)
    for part in parts:
        batch = batcher.collate([encoded[i] for i in part])
        loss, outputs = answer_loss(stage.model, batch, tokens)
        total += loss.detach()
        penalty = method.penalty(batch, outputs)
        if penalty is not None:
            loss = loss + penalty * (outputs.labels.numel() / tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        method.after_micro_batch(engine.grads)
    batcher.processes.all_reduce(total)
    return float(total)


def _update(
    stage: Stage,
    method: Method,
    engine: SelectiveUpdate,
    train: TrainConfig,
    lr: float,
    number: int,
    batcher: Batcher,
) -> float:
    """One optimiser update; returns the gradient norm before clipping (and after masking)."""
    engine.all_reduce(batcher.processes.all_reduce)

    def gradient_of(batches: Iterable[dict[str, Tensor]]) -> Mapping[str, Tensor]:
        return _gradient_of(stage.model, engine, batches, batcher)

    method.before_step(Step(number, lr, engine.grads, engine.masters, engine.compact, gradient_of))
    norm = engine.clip(train.max_grad_norm)
    engine.step(lr)
    if method.after_step(engine.masters):
        engine.write_back()
    engine.zero_grad()
    return float(norm)


def _gradient_of(
    model: Any,
    engine: SelectiveUpdate,
    batches: Iterable[dict[str, Tensor]],
    batcher: Batcher,
) -> dict[str, Tensor]:
    """Mean answer-loss gradient on other batches; the accumulated gradients are put back."""
    import torch

    kept = {name: grad.clone() for name, grad in engine.grads.items()}
    engine.zero_grad()
    batches = list(batches)
    tokens = torch.zeros((), dtype=torch.float64, device=batcher.device)
    for batch in batches:
        tokens += (batch["labels"] != -100).sum()
    batcher.processes.all_reduce(tokens)
    for batch in batches:
        loss, _ = answer_loss(model, batch, max(float(tokens), 1.0))
        loss.backward()  # type: ignore[no-untyped-call]
    engine.all_reduce(batcher.processes.all_reduce)
    result = {name: grad.clone() for name, grad in engine.grads.items()}
    engine.zero_grad()
    for name, grad in kept.items():
        engine.grads[name].copy_(grad)
    return result


def _check_finite(loss: float, norm: float, step: int, stage: Stage) -> None:
    import math

    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise RunError(
            f"stage {stage.index} ({stage.task}), update {step}: loss {loss}, "
            f"gradient norm {norm}; lower lr, or use dtype float32, then run the same command again"
        )
