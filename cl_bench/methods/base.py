"""The method contract: a method says only what is different about it.

Every hook has a default that does nothing. Hooks are called in this order for each stage:

    load_state -> prepare -> plan -> examples -> phases
    for each phase, each update:  penalty, after_micro_batch (per micro-batch),
                                  before_step, [clip, optimiser step], after_step
    finish -> state -> scored

A method object lives for one stage; what the next stage needs travels through `state`, so a run
that was interrupted and one that was not see the same things. Modules of methods import torch
inside their hooks only: options are validated and listed without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, get_args, get_origin

from typing_extensions import TypeVar

from cl_bench.config.strict import Strict
from cl_bench.methods.stage import Batch, Loss, Phase, Stage, Step
from cl_bench.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.data.examples import Example
    from cl_bench.methods.spec import StageSpec
    from cl_bench.training.loss import AnswerOutputs
    from cl_bench.training.update_plan import UpdatePlan

__all__ = ["Batch", "Loss", "Method", "Options", "Phase", "Stage", "State", "Step"]

Kept: TypeAlias = Literal["nothing", "statistics", "outputs", "examples", "weights"]
"""Of earlier tasks: figures about weights, a model's outputs, single examples, whole weights."""


class Options(Strict):
    """A method's own options; unknown keys are errors, and so are booleans for numbers."""


O_co = TypeVar("O_co", bound=Options, covariant=True, default=Options)


class Method(Generic[O_co]):
    """What is different about a continual-learning method. Subclasses override hooks only.

    `class Mine(Method[MyOptions])` has its options, validated, in `self.options`.
    """

    name: ClassVar[str]
    family: ClassVar[str] = ""
    """What kind it is, in a word or two, for `cl-bench methods`; shipped ones have one."""
    source: ClassVar[str] = ""
    """What it follows: authors and year, arXiv number or repository. Shipped methods say it."""
    options_type: ClassVar[type[Options]] = Options
    """Set by `Method[MyOptions]`."""
    train_defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults for `train:` that belong to the method (LoRA's learning rate)."""
    adapters: ClassVar[bool] = False
    """Whether the method trains adapters; others get them merged into the weights first."""
    splits: ClassVar[bool] = False
    """Whether it works where each process holds a part of every weight (`train.shard`), and where
    gradients and masters are in main memory (`train.offload`).

    Each class says it for itself: a subclass may look at weights otherwise.
    """
    offloads: ClassVar[bool] = False
    """Whether its large tensors are where `Stage.kept_on` says (`train.offload: [method]`)."""
    keeps: ClassVar[Kept | tuple[Kept, ...]] = "nothing"
    """What it has of earlier tasks, for tables: methods that may look back know more.

    One that keeps more than weights would do nothing where no stage goes on from another, and is
    refused there.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for base in vars(cls).get("__orig_bases__", ()):
            given = get_args(base)[:1] if isinstance(get_origin(base), type) else ()
            if given and isinstance(given[0], type) and "options_type" not in vars(cls):
                cls.options_type = given[0]

    def __init__(self, options: Options | None = None) -> None:
        self.options: O_co = options if options is not None else self.options_type()  # type: ignore[assignment]

    def __setattr__(self, name: str, value: Any) -> None:
        if callable(getattr(Method, name, None)):
            raise AttributeError(f"`{name}` is a hook of methods: call the attribute `_{name}`")
        super().__setattr__(name, value)

    def answers(self, hook: str) -> bool:
        """Whether it has a hook of its own, with these options.

        A composition asks it about `phases`, which only one part may have. Default: its class does.
        """
        return overrides(type(self), hook)

    def schedule(self, stages: Sequence[StageSpec]) -> list[StageSpec]:
        """Which stages are trained from what; default: as configured, each from the previous.

        Called once for all stages, with the options of the first; what is scored after each is
        found afterwards. Raises UserError where the stages ask for what the method cannot do.
        """
        return list(stages)

    def trains(self, shapes: Shapes) -> Trained | None:
        """What its `plan` lets move, as `cl-bench plan` counts it before model or data exist.

        `costs/trained.py` has the kinds: a share of every matrix, some parameters, adapters. The
        stage that needs most counts. None leaves it to others (alone: full training). Raises
        UserError for a model that lacks what would be trained, which refuses the config.
        """
        return None

    def adds(self, shapes: Shapes) -> Cost:
        """What it costs in addition: memory, work and disk (`costs/added.py`), in the stage that
        needs most.

        `shapes` are of the model, or of the adapters alone where those are trained.
        """
        from cl_bench.costs.added import Cost

        return Cost()

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """Why a stage cannot be trained as the config says; asked by `plan` and `run` alike.

        Before anything is paid for, so from the config alone: options that do not go together, or
        not with `stage.train`, or with the other methods of the stage (`stage.parts`).
        """
        return ()

    def earlier_weights(self, stage: StageSpec) -> Iterable[int]:
        """Numbers of the stages whose weights it reads (`Stage.weights`) while it trains this one.

        Beside the base model's and those that the stage begins with, which are always there. With
        `keep: last` or `scores` the weights of other stages are deleted, and reading them is
        refused.
        """
        return ()

    @property
    def least_examples(self) -> int:
        """How many training examples a stage must have, with these options.

        `plan` and `run` refuse one that has fewer.
        """
        return 1

    def prepare(self, stage: Stage) -> None:
        """Adapters, teachers, hooks: before any batch."""

    def plan(self, stage: Stage) -> UpdatePlan | None:
        """Which parameters may move; None leaves it to others (alone: all of them)."""
        return None

    def examples(self, stage: Stage, examples: Sequence[Example]) -> Sequence[Example]:
        """Which examples are seen in an epoch; default: the stage's own."""
        return examples

    def phases(self, stage: Stage) -> Iterator[Phase]:
        """Passes of the training loop, one `yield Phase(...)` each; default: a single one.

        After a `yield`, and before the first, the method has the ordinary model in its hands, with
        the weights so far: it may measure, choose examples, generate, load other weights. What the
        `examples` hooks gave is `stage.mixture`.
        """
        yield Phase(stage.mixture, stage.epochs)

    def penalty(self, batch: Batch, outputs: AnswerOutputs) -> Tensor | None:
        """A term for the loss, normalised like the loss (a mean over answer tokens).

        Built from `outputs` or from weights that are trained; what depends on weights alone belongs
        in `before_step` (`step.add`), where they are in full precision and which is called once an
        update. A value without a gradient is refused.
        """
        return None

    def after_micro_batch(self, grads: Mapping[str, Tensor]) -> None:
        """After each backward pass; `grads` holds the sum over the update so far."""

    def begin_again(self) -> bool:
        """Forget what `penalty`, `after_micro_batch` and hooks in the model have of this update.

        Memory did not suffice for a micro-batch, and the update is done again in smaller ones.
        Returns whether nothing of it is left; else the run stops. Default: whether the method has
        neither of the two; one that puts hooks into the model must say it itself.
        """
        return not (overrides(type(self), "penalty") or overrides(type(self), "after_micro_batch"))

    def before_step(self, step: Step) -> None:
        """Once per update, before clipping: masks, pulls and projections of gradients."""

    def after_step(self, masters: Mapping[str, Tensor]) -> bool:
        """After the update: projections and averages of the masters, in place.

        Returns whether it changed them (then they are written into the model again).
        """
        return False

    def finish(self, stage: Stage) -> None:
        """After training, before saving and scoring: Fisher for later, memory, merging."""

    @property
    def scores_another(self) -> bool:
        """Whether `scored` gives another model, with these options; default: if the class has it.

        Only one method of a composition may.
        """
        return overrides(type(self), "scored")

    def scored(self, stage: Stage) -> AbstractContextManager[Any]:
        """Gives the model that is scored, where it is not the one that training goes on from.

        An average of the weights, a merge with earlier stages. While it is open `stage.model` may
        hold other weights (put them back) or another model may be given. It is saved beside the
        stage's checkpoint (`scored/`), and every scoring is of what was saved. Default: the model
        itself, and nothing more is saved.
        """
        return nullcontext(stage.model)

    def state(self) -> State:
        """What must survive to the next stage. It replaces what was kept before."""
        return State()

    def load_state(self, state: State) -> None:
        """What `state` of the stage before returned; not called before the first."""


def unsplit(*options: tuple[str, bool, str]) -> Iterator[str]:
    """Of options that need whole weights (what is given, whether it is, what works): the faults."""
    for given, is_given, works in options:
        if is_given:
            yield (
                f"{given}: needs whole weights, which shard and offload: [weights] split: give "
                f"{works}, or neither of them"
            )


def kept_by(methods: Sequence[type[Method]]) -> list[Kept]:
    """What methods keep of earlier tasks, together; empty for nothing."""
    found: list[Kept] = []
    for method in methods:
        found += [method.keeps] if isinstance(method.keeps, str) else method.keeps
    return [kept for kept in get_args(Kept) if kept in found and kept != "nothing"]


def overrides(method: type[Method], hook: str) -> bool:
    """Whether a class has a hook of its own."""
    return getattr(method, hook) is not getattr(Method, hook)
