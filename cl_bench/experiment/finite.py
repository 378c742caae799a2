"""Training that diverged: losses, gradients and weights that are not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cl_bench.errors import DivergedError
from cl_bench.experiment.batcher import Batcher
from cl_bench.methods.base import Stage
from cl_bench.training.loss import answer_loss

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.data.examples import Example


def excluded_weights(model: Any) -> int:
    """How many weights are -inf: biases of tokens that a model excludes, which stay so."""
    from cl_bench.training.sharding import whole

    return sum(int(whole(parameter.isneginf().sum())) for parameter in model.parameters())


def fault_of_weights(
    stage: Stage, examples: Sequence[Example], batcher: Batcher, excluded: int
) -> str | None:
    """What no later update shows: weights, or a loss of theirs, that are not finite.

    `excluded`: how many were -inf before; as many may be now.
    """
    import torch

    weights = dict(stage.model.named_parameters())
    if excluded and excluded_weights(stage.model) == excluded:
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


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """`a.weight, b.weight (and 3 more) are`: which of them hold NaN or infinite numbers."""
    from cl_bench.training.sharding import whole

    bad = [name for name, value in tensors.items() if not bool(whole(value.isfinite().all()))]
    if not bad:
        return None
    more = f" (and {len(bad) - 2} more)" if len(bad) > 2 else ""
    return ", ".join(bad[:2]) + more + (" is" if len(bad) == 1 else " are")


def check_finite(loss: float, norm: float, lr: float, update: int, stage: Stage) -> None:
    import math

    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = f"diverged at update {update}: loss {loss}, gradient norm {norm}, lr {lr}"
        raise DivergedError(where(stage), what, update=update, loss=loss, grad_norm=norm, lr=lr)


def where(stage: Stage) -> str:
    return f"stage {stage.index} ({stage.task})"
