"""One optimiser update: the gradient of a batch, what the method makes of it, the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cl_bench.device_memory import first_line, out_of_memory
from cl_bench.errors import RunError
from cl_bench.experiment.batcher import Batcher
from cl_bench.experiment.memory import OutOfMemoryError
from cl_bench.methods.base import Batch, Loss, Method, Stage, Step
from cl_bench.methods.penalties import penalty_of
from cl_bench.training.cross_entropy import summed_cross_entropy
from cl_bench.training.idle import unseen, weight_of
from cl_bench.training.loss import answer_logits, answer_loss
from cl_bench.training.selective_update import SelectiveUpdate

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.config.schema import TrainConfig


def accumulate(
    stage: Stage,
    method: Method,
    engine: SelectiveUpdate,
    parts: Sequence[Sequence[int]],
    collated: Callable[[Sequence[int]], dict[str, Tensor]],
    tokens: int,
    batcher: Batcher,
) -> float:
    """Backward over this process's micro-batches; returns the loss of the whole update.

    The mean is over the answer tokens of the effective batch, so the split does not matter. Raises
    OutOfMemoryError in every process where memory did not suffice in one of them.
    """
    import torch

    # The loss; how many processes had too little memory; those that had it for a single example.
    sums = torch.zeros(3, dtype=torch.float64, device=batcher.device)
    reason = "in another process"
    for part in parts:
        try:
            sums[0] += _backward(stage, method, engine, collated(part), tokens)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or batcher.even:  # others are in the middle of this one
                raise
            sums[1], sums[2] = 1, len(part) == 1
            reason = first_line(error)
            break
    batcher.processes.all_reduce(sums)
    loss, too_large, single = sums.tolist()  # one wait for an accelerator
    if too_large:
        raise OutOfMemoryError(reason, smaller=not single)
    return float(loss)


def _backward(
    stage: Stage, method: Method, engine: SelectiveUpdate, batch: dict[str, Tensor], tokens: int
) -> Tensor:
    """Of one micro-batch; nothing of it is held afterwards, also where it fails."""
    weight = weight_of(batch)
    with unseen(stage.model, batch):
        loss, outputs = answer_loss(stage.model, batch, tokens)
        value = loss.detach() * weight
        penalty = penalty_of(method, batch, outputs) if weight else None
        if penalty is not None:
            loss = loss + penalty * (outputs.labels.numel() / tokens)
        (loss * weight).backward()  # type: ignore[no-untyped-call]
    engine.after_backward()
    if weight:
        method.after_micro_batch(engine.grads)
    return value


def update(
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
    if type(method).after_step is Method.after_step:
        engine.step(lr, zero_grads=True)
        return float(norm)
    engine.step(lr)  # the method may look at the gradients once more
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
    denominator = float(tokens)
    for batch in batches:
        outputs = answer_logits(model, batch)
        if not outputs.labels.numel():
            continue
        if loss is None:
            value = summed_cross_entropy(outputs.logits, outputs.labels) / denominator
        else:
            value = loss(batch, outputs)
            if not isinstance(value, torch.Tensor) or not value.requires_grad:
                raise RunError(
                    "step.gradient_of: the loss has no gradient: build it from the outputs"
                )
            value = value * (outputs.labels.numel() / denominator)
        value.backward()  # type: ignore[no-untyped-call]
    engine.all_reduce(batcher.processes.all_reduce)
    result = {name: grad.clone() for name, grad in engine.grads.items()}
    engine.zero_grad()
    for name, grad in kept.items():
        engine.grads[name].copy_(grad)
    return result
