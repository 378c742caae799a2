"""The Fisher of a stage's examples, as methods estimate it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from cl_bench.methods.base import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.importance.recorder import Granularity

Estimator: TypeAlias = Literal["per_sample", "batch"]


def fisher_of(
    stage: Stage,
    method: str,
    estimator: Estimator,
    granularity: Granularity,
    limit: int | None = None,
    modules: Sequence[str] | None = None,
) -> tuple[dict[str, Tensor], int]:
    """Squared gradients of the stage's examples, summed over all processes, and of how many.

    `per_sample`: of the summed log-likelihood of each example, and the number of examples.
    `batch`: of the mean loss of each batch of `train.batch_size`, drawn as (seed, stage, method)
    fixes, and the number of batches. `limit`: of so many examples, a sample. `modules`: as
    `fisher_scores` takes it.
    """
    import torch

    from cl_bench.importance.batch_fisher import batch_scores
    from cl_bench.importance.fisher import fisher_scores

    examples = list(stage.examples)
    if limit is not None and limit < len(examples):
        order = torch.randperm(len(examples), generator=stage.generator(method))
        examples = [examples[i] for i in order[:limit].tolist()]
    if estimator == "per_sample":
        scores = fisher_scores(
            stage.model, stage.batches(examples), granularity, modules, stage.remaining
        )
        for score in scores.values():
            stage.all_reduce(score)
        return scores, len(examples)
    drawn = torch.randperm(len(examples), generator=stage.generator(f"{method} batches")).tolist()
    size = stage.train.batch_size
    parts = (drawn[begin : begin + size] for begin in range(0, len(drawn), size))
    groups = [[examples[i] for i in part] for part in parts]
    shares = (stage.batches(group) for group in groups)
    scores = batch_scores(
        stage.model, shares, stage.all_reduce, granularity, modules, stage.remaining
    )
    return scores, len(groups)
