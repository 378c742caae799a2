"""The training loop, written once for every method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cl_bench.data.batches import collate, epoch_batches, for_process, micro_batches
from cl_bench.errors import DivergedError, RunError
from cl_bench.experiment.phases import model_is_ordinary_by, phases_of
from cl_bench.experiment.processes import Processes
from cl_bench.methods.base import Batch, Loss, Method, Phase, Stage, Step
from cl_bench.methods.penalties import penalty_of
from cl_bench.methods.static_checks import adapter_fault
from cl_bench.models.checkpoints import is_adapter
from cl_bench.training.cross_entropy import summed_cross_entropy
from cl_bench.training.loss import answer_logits, answer_loss
from cl_bench.training.schedule import learning_rate
from cl_bench.training.selections import selection_tensors
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.update_plan import UpdatePlan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cl_bench.config.schema import TrainConfig
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
    group: Callable[[int], int] | None = None
    """Numbers the lengths: unequal ones never share a micro-batch (`positions.LengthRule`)."""

    def collate(
        self, encoded: Sequence[Encoded], numbers: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Padded `input_ids`, `attention_mask`, `labels` [B, T]; with numbers `example` [B]."""
        import torch

        batch: dict[str, Any] = dict(collate(encoded, self.pad_id, **self.padding))
        if numbers is not None:
            batch["example"] = torch.tensor(numbers, dtype=torch.int64)
        return {
            name: value.to(self.device)
            for name, value in batch.items()
            if isinstance(value, torch.Tensor)
        }

    def share(
        self, train: TrainConfig, examples: Sequence[Example], numbers: Sequence[int]
    ) -> Iterator[dict[str, Tensor]]:
        """This process's part of `examples`, every example once, short ones together."""
        encoded = self.encode(examples)
        lengths = [len(item.input_ids) for item in encoded]
        order = sorted(range(len(encoded)), key=lambda i: (lengths[i], i))
        for micro in self.micro(train, order, lengths):
            yield self.collate([encoded[i] for i in micro], [numbers[i] for i in micro])

    def micro(
        self, train: TrainConfig, batch: Sequence[int], lengths: Sequence[int]
    ) -> list[list[int]]:
        """The micro-batches of `batch` that belong to this process."""
        parts = micro_batches(
            batch, lengths, train.micro_batch_size, train.micro_batch_tokens, self.group
        )
        return for_process(parts, self.processes.rank, self.processes.world)


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
    on_step: Callable[[dict[str, Any], int], None],
    between: Between | None = None,
) -> None:
    """Train `stage.model` as the method says; it is an ordinary model again afterwards.

    `on_step` gets the record of each update (a line of train.jsonl) and how many there are at the
    end of its phase: later phases may depend on it.
    """
    method.prepare(stage)
    _refuse_adapters(stage.model, method)
    excluded = _excluded(stage.model)
    chosen = method.plan(stage)
    plan = chosen or UpdatePlan()
    if chosen is not None and not is_adapter(stage.model):
        stage.selection = selection_tensors(plan, stage.selection, stage.model)
    stage.mixture = method.examples(stage, stage.examples)
    total = done = 0
    record: dict[str, Any] = {}
    norms: dict[tuple[int, int], list[float]] = {}
    last: Phase | None = None
    for number, phase in enumerate(phases_of(method, stage)):
        _refuse_adapters(stage.model, method)
        last, before = phase, done
        total += count_updates(len(phase.examples), stage.train.batch_size, phase.epochs)
        if phase.start is not None:
            stage.load(phase.start)
        stage.model.train()
        part = plan if phase.plan is None else phase.plan
        with (
            SelectiveUpdate(stage.model, part, betas=stage.train.betas) as engine,
            model_is_ordinary_by(stage, engine.paused),
        ):
            if done == 0:
                begin = {"step": 0, "epoch": 0, "phase": 1}
                _pause(stage, method, between, begin, total, False)
            for record, ends in _phase(stage, method, engine, phase, number, batcher, before):
                done += 1
                norms.setdefault((number, record["epoch"]), []).append(record["grad_norm"])
                on_step({"step": done, **record}, total)
                _pause(stage, method, between, {"step": done, **record}, total, ends)
        stage.model.eval()
    if last is None:
        raise RunError(f"method {method.name}: phases yields no Phase: a stage has at least one")
    method.finish(stage)
    if dead := [str(epoch) for (_, epoch), each in norms.items() if not any(each)]:
        stage.notes["dead"] = (
            f"the gradient was exactly 0 in every update of epoch {', '.join(dead)}: nothing was "
            "learned there"
        )
    if fault := _fault_of_weights(stage, last.examples[:1], batcher, excluded):
        numbers = {key: record[key] for key in ("loss", "grad_norm", "lr") if key in record}
        what = f"diverged in its last update, number {done}: {fault}"
        raise DivergedError(_where(stage), what, update=done, **numbers)


def _excluded(model: Any) -> int:
    """How many weights are -inf: biases of tokens that a model excludes, which stay so."""
    return sum(int(parameter.isneginf().sum()) for parameter in model.parameters())


def _fault_of_weights(
    stage: Stage, examples: Sequence[Example], batcher: Batcher, excluded: int
) -> str | None:
    """What no later update shows: weights, or a loss of theirs, that are not finite.

    `excluded`: how many were -inf before; as many may be now.
    """
    import torch

    weights = dict(stage.model.named_parameters())
    if excluded and _excluded(stage.model) == excluded:
        weights = {
            n: w for n, w in weights.items() if not bool((w.isfinite() | w.isneginf()).all())
        }
    if names := not_finite(weights):
        return f"{names} not finite"
    # Weights of 1e30 are finite, and nothing that they compute is.
    with torch.no_grad():
        for item in batcher.encode(examples):
            loss, _ = answer_loss(stage.model, batcher.collate([item]), item.answer_tokens)
            if not bool(loss.isfinite()):
                return f"the loss of an example is {float(loss)} after it"
    return None


def _refuse_adapters(model: Any, method: Method) -> None:
    """Adapters that cannot be trained or merged (preflight saw them if the file names them)."""
    if fault := adapter_fault(model):
        raise RunError(f"method {method.name}: {fault}")


def _pause(
    stage: Stage,
    method: Method,
    between: Between | None,
    record: dict[str, Any],
    total: int,
    ends_epoch: bool,
) -> None:
    if between is not None and between.due(record["step"], total, ends_epoch):
        with stage.ordinary(), method.scored(stage) as model:
            between.score(record, model)


def _phase(
    stage: Stage,
    method: Method,
    engine: SelectiveUpdate,
    phase: Phase,
    number: int,
    batcher: Batcher,
    before: int = 0,
) -> Iterator[tuple[dict[str, Any], bool]]:
    """The record of each update, and whether it ends an epoch; `before`: updates of other phases.

    Raises DivergedError.
    """
    lr_given = {} if phase.lr is None else {"lr": phase.lr}
    train = stage.train.model_copy(update=lr_given)
    encoded = batcher.encode(phase.examples)
    numbers = [stage.number(example) for example in phase.examples]
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
            batches = (
                batcher.collate([encoded[i] for i in part], [numbers[i] for i in part])
                for part in parts
            )
            loss = _accumulate(stage, method, engine, batches, tokens, batcher)
            norm = _update(stage, method, engine, train, lr, done + 1, batcher)
            done += 1
            _check_finite(loss, norm, lr, before + done, stage)
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
    batches: Iterable[dict[str, Tensor]],
    tokens: int,
    batcher: Batcher,
) -> float:
    """Backward over this process's micro-batches; returns the loss of the whole update.

    The mean is over the answer tokens of the effective batch, so the split does not matter.
    """
    import torch

    total = torch.zeros((), dtype=torch.float64, device=batcher.device)
    for batch in batches:
        loss, outputs = answer_loss(stage.model, batch, tokens)
        total += loss.detach()
        penalty = penalty_of(method, batch, outputs)
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

    def gradients(batches: Iterable[Batch], loss: Loss | None) -> Mapping[str, Tensor]:
        return _gradient_of(stage.model, engine, batches, loss, batcher)

    method.before_step(Step(number, lr, engine.grads, engine.masters, engine.compact, gradients))
    norm = engine.clip(train.max_grad_norm)
    engine.step(lr)
    if method.after_step(engine.masters):
        engine.write_back()
    engine.zero_grad()
    return float(norm)


def _gradient_of(
    model: Any,
    engine: SelectiveUpdate,
    batches: Iterable[Batch],
    loss: Loss | None,
    batcher: Batcher,
) -> dict[str, Tensor]:
    """Gradient of a mean over the answer tokens of other batches; `grads` is put back."""
    import torch

    kept = {name: grad.clone() for name, grad in engine.grads.items()}
    engine.zero_grad()
    batches = list(batches)
    tokens = torch.zeros((), dtype=torch.float64, device=batcher.device)
    for batch in batches:
        tokens += (batch["labels"][:, 1:] != -100).sum()
    batcher.processes.all_reduce(tokens)
    for batch in batches:
        outputs = answer_logits(model, batch)
        if not outputs.labels.numel():
            continue
        if loss is None:
            value = summed_cross_entropy(outputs.logits, outputs.labels) / float(tokens)
        else:
            value = loss(batch, outputs)
            if not isinstance(value, torch.Tensor) or not value.requires_grad:
                raise RunError(
                    "step.gradient_of: the loss has no gradient: build it from the outputs"
                )
            value = value * (outputs.labels.numel() / float(tokens))
        value.backward()  # type: ignore[no-untyped-call]
    engine.all_reduce(batcher.processes.all_reduce)
    result = {name: grad.clone() for name, grad in engine.grads.items()}
    engine.zero_grad()
    for name, grad in kept.items():
        engine.grads[name].copy_(grad)
    return result


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """`a.weight, b.weight (and 3 more) are`: which of them hold NaN or infinite numbers."""
    bad = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if not bad:
        return None
    more = f" (and {len(bad) - 2} more)" if len(bad) > 2 else ""
    return ", ".join(bad[:2]) + more + (" is" if len(bad) == 1 else " are")


def _check_finite(loss: float, norm: float, lr: float, update: int, stage: Stage) -> None:
    import math

    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = f"diverged at update {update}: loss {loss}, gradient norm {norm}, lr {lr}"
        raise DivergedError(_where(stage), what, update=update, loss=loss, grad_norm=norm, lr=lr)


def _where(stage: Stage) -> str:
    return f"stage {stage.index} ({stage.task})"
