"""The Fisher of a stage's examples, as methods estimate it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from cl_bench.methods.base import Stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cl_bench.importance.recorder import Granularity

T = TypeVar("T")
Estimator: TypeAlias = Literal["per_sample", "batch"]


def fisher_of(
    stage: Stage,
    method: str,
    estimator: Estimator,
    granularity: Granularity,
    limit: int | None = None,
    modules: Sequence[str] | None = None,
    first: dict[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], int]:
    """Squared gradients of the stage's examples, summed over all processes, and of how many.

    `per_sample`: of the summed log-likelihood of each example, and the number of examples.
    `batch`: of the mean loss of each batch of `train.batch_size`, drawn as (seed, stage, method)
    fixes, and the number of batches. `limit`: of so many examples, a sample. `modules`: as
    `fisher_scores` takes it. `first` is filled with the `small_scores` of a seeded half of the
    examples or batches, as long as it has two: each is still seen once.
    """
    import torch

    from cl_bench.importance.batch_fisher import batch_scores
    from cl_bench.importance.fisher import fisher_scores
    from cl_bench.training.kept_scores import small_scores
    from cl_bench.training.sharding import is_split

    examples = list(stage.examples)
    if limit is not None and limit < len(examples):
        order = torch.randperm(len(examples), generator=stage.generator(method))
        examples = [examples[i] for i in order[:limit].tolist()]
    seen: Sequence[Any] = examples
    if estimator == "batch":
        generator = stage.generator(f"{method} batches")
        drawn = torch.randperm(len(examples), generator=generator).tolist()
        size = stage.train.batch_size
        parts = (drawn[begin : begin + size] for begin in range(0, len(drawn), size))
        seen = [[examples[i] for i in part] for part in parts]

    scores: dict[str, Tensor] = {}
    parts_of = [seen] if first is None else in_halves(seen, stage.generator(f"{method} halves"))
    for number, part in enumerate(parts_of):
        given = (granularity, modules, stage.remaining, scores)
        if estimator == "per_sample":
            scores = fisher_scores(stage.model, stage.batches(part), *given)
        else:
            groups = (stage.batches(group) for group in part)
            scores = batch_scores(stage.model, groups, stage.all_reduce, *given)
        if first is not None and number == 0 and len(parts_of) > 1:
            first |= small_scores(scores, stage.model)
    if estimator == "per_sample":
        for score in (*scores.values(), *(first or {}).values()):
            if not is_split(score):  # those are sums over processes already
                stage.all_reduce(score)
    return scores, len(seen)


def in_halves(seen: Sequence[T], generator: torch.Generator) -> list[list[T]]:
    """Two random halves, each in the given order; the whole alone where there are not two."""
    import torch

    if len(seen) < 2:
        return [list(seen)]
    order = torch.randperm(len(seen), generator=generator)
    chosen = set(order[: len(seen) // 2].tolist())
    return [[one for i, one in enumerate(seen) if (i in chosen) is half] for half in (True, False)]
