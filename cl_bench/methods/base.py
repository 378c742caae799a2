"""The method contract: a method says only what is different about it.

Every hook has a default that does nothing. Hooks are called in this order for each stage:

    load_state_dict -> prepare -> plan -> examples -> phases
    for each phase, each update:  penalty, after_micro_batch (per micro-batch),
                                  before_step, [clip, optimiser step], after_step
    finish -> state_dict

A method object lives for one stage; what the next stage needs travels through `state_dict`, so a
run that was interrupted and one that was not see the same things. Modules of methods import torch
inside their hooks only: options are validated and listed without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from cl_bench.config.strict import Strict

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cl_bench.config.schema import TrainConfig
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.training import Cost
    from cl_bench.data.examples import Example
    from cl_bench.methods.spec import StageSpec
    from cl_bench.training.loss import AnswerOutputs
    from cl_bench.training.update_plan import UpdatePlan


class Options(Strict):
    """A method's own options; unknown keys are errors, and so are booleans for numbers."""


@dataclass
class Stage:
    """What a method sees of the stage it runs in.

    `model` may be replaced by `prepare` (an adapter wraps it). `earlier` holds the training
    examples of the stages before this one, oldest first.
    """

    index: int
    task: str
    seed: int
    train: TrainConfig
    model: nn.Module
    examples: Sequence[Example]
    earlier: Sequence[tuple[str, Sequence[Example]]]
    device: torch.device
    batches: Callable[[Sequence[Example]], Iterable[dict[str, Tensor]]]
    """Padded batches (`input_ids`, `attention_mask`, `labels`), this process's share, on device."""
    all_reduce: Callable[[Tensor], None]
    """Sums a tensor over all processes, in place."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the method wants recorded in `scores.json` (for example the share of frozen rows)."""

    @property
    def first(self) -> bool:
        """Whether nothing was trained before this stage."""
        return self.index == 1

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator of the method's own, fixed by (seed, stage, purpose)."""
        import torch

        from cl_bench.seeds import derive_seed

        return torch.Generator().manual_seed(derive_seed(self.seed, self.index, purpose))


@dataclass
class Step:
    """One optimiser update, before clipping. Tensors are fp32 and compact (see the engine)."""

    number: int
    lr: float
    grads: Mapping[str, Tensor]
    masters: Mapping[str, Tensor]
    compact: Callable[[str, Tensor], Tensor]
    """Takes a dense tensor of a parameter's shape to the shape of its `grads` entry."""
    gradient_of: Callable[[Iterable[dict[str, Tensor]]], Mapping[str, Tensor]]
    """Gradient of the mean answer loss on other batches, leaving `grads` as it was."""


@dataclass(frozen=True)
class Phase:
    """One pass of the training loop within a stage, with its own optimiser and schedule."""

    examples: Sequence[Example]
    epochs: int
    start: str = "current"
    """`current`: from where the last phase ended; `stage`: from the weights the stage began with"""


class Method:
    """What is different about a continual-learning method. Subclasses override hooks only."""

    name: ClassVar[str]
    options_type: ClassVar[type[Options]] = Options
    train_defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults for `train:` that belong to the method (LoRA's learning rate)."""
    adapters: ClassVar[bool] = False
    """Whether the method trains adapters; others get them merged into the weights first."""

    def __init__(self, options: Options | None = None) -> None:
        self.options: Any = options if options is not None else self.options_type()

    def schedule(self, stages: Sequence[StageSpec]) -> list[StageSpec]:
        """Which stages are trained from what; default: as configured, each from the previous."""
        return list(stages)

    def cost(self, shapes: Shapes) -> Cost:
        """Bytes and FLOPs from parameter shapes alone, before model or data exist.

        A method that restricts its `plan` says here what that saves, one that keeps tensors or
        passes over the data what they cost; `costs/training.py` has the parts. The stage that
        needs most counts. Default: full training.
        """
        from cl_bench.costs.training import full_cost

        return full_cost(shapes)

    def prepare(self, stage: Stage) -> None:
        """Adapters, teachers, hooks: before any batch."""

    def plan(self, stage: Stage) -> UpdatePlan | None:
        """Which parameters may move; None leaves it to others (alone: all of them)."""
        return None

    def examples(self, stage: Stage, examples: Sequence[Example]) -> Sequence[Example]:
        """Which examples are seen in an epoch; default: the stage's own."""
        return examples

    def phases(self, stage: Stage, examples: Sequence[Example], epochs: int) -> list[Phase] | None:
        """Passes of the loop; None means one over `examples`."""
        return None

    def penalty(self, batch: Mapping[str, Tensor], outputs: AnswerOutputs) -> Tensor | None:
        """A term for the loss, normalised like the loss (a mean over answer tokens).

        Built from `outputs` or from weights that are trained; `before_step` has those in full
        precision. A value without a gradient is refused.
        """
        return None

    def after_micro_batch(self, grads: Mapping[str, Tensor]) -> None:
        """After each backward pass; `grads` holds the sum over the update so far."""

    def before_step(self, step: Step) -> None:
        """Once per update, before clipping: masks, pulls and projections of gradients."""

    def after_step(self, masters: Mapping[str, Tensor]) -> bool:
        """After the update: projections and averages of the masters, in place.

        Returns whether it changed them (then they are written into the model again).
        """
        return False

    def finish(self, stage: Stage) -> None:
        """After training, before saving and scoring: Fisher for later, memory, merging."""

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that must survive to the next stage. They replace what was kept before."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `state_dict` of the stage before returned; not called before the first."""
