"""Merging of weights: the arithmetic, one tensor at a time, and what merging methods share.

A rule gets the name and value of one parameter and gives the merged one. Weights of other stages
are read from disk when a rule asks for them, so no other model is ever held whole. Arithmetic is in
float32 (float64 for float64 models) and rounded once, when the result is written.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from typing_extensions import TypeVar

from cl_bench.errors import RunError
from cl_bench.methods.base import Method, Options, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.methods.spec import StageSpec

Rule = Callable[[str, "Tensor"], "Tensor"]
"""From a parameter's name and value to the merged value, on any device and in any dtype."""
PARALLEL = 0.9995
"""Cosine from which on `slerp` is linear (mergekit's constant)."""


class MergeOptions(Options):
    """What every merge of whole weights says."""

    use: Literal["training", "scoring"] = Field(
        "training",
        alias="for",
        description="what the merged weights are for: the next stage goes on from them, or they "
        "are only scored and training goes on from the unmerged ones",
    )


M_co = TypeVar("M_co", bound=MergeOptions, covariant=True, default=MergeOptions)


class Merging(Method[M_co], ABC):
    """A method that trains as `sft` does and merges the weights with those of earlier stages."""

    keeps = "weights"

    @abstractmethod
    def rule(self, stage: Stage) -> Rule:
        """How this stage's weights are merged: what a merging method is."""

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """Adapters."""
        return adapters_refused(stage)

    def prepare(self, stage: Stage) -> None:
        """Earlier weights that are not there any more are missed here, before training."""
        self._rule = self.rule(stage)

    def finish(self, stage: Stage) -> None:
        """With `for: training` the stage ends with the merged weights."""
        if self.options.use == "training":
            stage.load(merged(stage, self._rule))

    @property
    def scores_another(self) -> bool:
        """With `for: scoring`."""
        return self.options.use == "scoring"

    @contextmanager
    def scored(self, stage: Stage) -> Iterator[Any]:
        """With `for: scoring` the merged weights, for as long as they are scored."""
        if self.options.use == "training":
            yield stage.model
            return
        with in_place_of(stage, stage.snapshot(), merged(stage, self._rule)):
            yield stage.model


@contextmanager
def in_place_of(
    stage: Stage, own: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> Iterator[None]:
    """While open, the stage's model has the weights `other`; then its `own` again."""
    stage.load(other)
    try:
        yield
    finally:
        stage.load(own)


class _Merged(Mapping[str, "Tensor"]):
    """Merged parameters, each computed when it is asked for."""

    def __init__(self, parameters: Mapping[str, Tensor], rule: Rule) -> None:
        self._parameters, self._rule = parameters, rule

    def __getitem__(self, name: str) -> Tensor:
        return self._rule(name, self._parameters[name].detach())

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


def merged(stage: Stage, rule: Rule) -> Mapping[str, Tensor]:
    """What a rule makes of the stage's parameters, one by one, for `stage.load`.

    Raises RunError for a model with an adapter: its parameters are not those of other stages.
    """
    from cl_bench.models.checkpoints import is_adapter

    if is_adapter(stage.model):
        raise RunError(
            "merging: the model has an adapter, and whole weights are merged: train weights, or "
            "merge the adapter into them (merge_and_unload) before"
        )
    return _Merged(dict(stage.model.named_parameters()), rule)


def adapters_refused(stage: StageSpec) -> Iterator[str]:
    """Why a stage that trains an adapter is not merged: the weights under it stay as they are."""
    if adapting := [part.method.name for part in stage.parts if part.method.adapters]:
        yield (
            f"merges whole weights, and {' and '.join(adapting)} trains an adapter and leaves them "
            "as they are: use one of the two, or ema for an average of the adapter"
        )


def begun_with(stage: Stage) -> int:
    """The number of the stage whose weights this one began with; 0 is the base model."""
    return 0 if stage.first else stage.index - 1


def working(tensor: Tensor, like: Tensor) -> Tensor:
    """On the device of `like`, in the dtype that is computed in."""
    import torch

    wide = torch.float64 in (tensor.dtype, like.dtype)
    return tensor.to(like.device, torch.float64 if wide else torch.float32)


def change(start: Tensor, end: Tensor) -> Tensor:
    """end - start, and exactly 0 where they are equal (infinite ones too)."""
    start, end = working(start, end), working(end, end)
    return (end - start).masked_fill_(end == start, 0.0)


def lerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """(1 - share) * start + share * end; exact at 0, at 1, and where both are equal."""
    moved = change(start, end)
    if share < 0.5:
        return working(start, end) + share * moved
    return working(end, end) - (1 - share) * moved


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Along the arc between two tensors, each taken as one vector; `lerp` if nearly parallel.

    sin((1 - share) w) / sin w * start + sin(share w) / sin w * end, w the angle between them. A
    vector of norm 1e-8 or less has no direction: its cosine with others counts as 0.
    """
    a, b = working(start, end), working(end, end)
    norms = [float(x.norm()) for x in (a, b)]
    small = [norm if norm > 1e-8 else 1.0 for norm in norms]
    cosine = float(((a / small[0]) * (b / small[1])).sum())
    if not abs(cosine) <= PARALLEL:
        return lerp(start, end, share)
    angle = math.acos(cosine)
    of_start, of_end = (math.sin(part * angle) / math.sin(angle) for part in (1 - share, share))
    return of_start * a + of_end * b


def largest(scores: Tensor, count: int) -> Tensor:
    """A mask of exactly `count` entries with the largest scores; of equal ones the first."""
    import torch

    flat = scores.reshape(-1)
    if count >= flat.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    if count < 1:
        return torch.zeros_like(scores, dtype=torch.bool)
    least = flat.topk(count).values[-1]
    mask = flat > least
    equal = (flat == least).nonzero().squeeze(1)
    mask[equal[: count - int(mask.sum())]] = True
    return mask.view_as(scores)


def combined(vectors: Callable[[], Iterable[Tensor]], consensus: bool, normalize: bool) -> Tensor:
    """The sum of task vectors, or with `normalize` their mean.

    With `consensus` only entries count that have the sign of the sum at their place (a sum of 0 is
    positive), and the mean is over those; an entry of 0 has no sign. `vectors` is called twice
    then, so that one vector at a time is held.
    """
    import torch

    total, number = torch.zeros(()), 0
    for number, vector in enumerate(vectors(), 1):
        total = vector if number == 1 else total + vector
    if not consensus:
        return total / number if normalize else total
    positive = total >= 0
    agreed, count = torch.zeros_like(total), torch.zeros_like(total)
    for vector in vectors():
        agree = torch.where(positive, vector > 0, vector < 0)
        agreed += torch.where(agree, vector, 0.0)
        count += agree
    return agreed / count.clamp_(min=1) if normalize else agreed
