"""What a method is given: the stage it runs in, the update that is due, and what it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cl_bench.errors import RunError
from cl_bench.methods.numbering import Numbering

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cl_bench.config.schema import TrainConfig
    from cl_bench.data.chat import Chat
    from cl_bench.data.examples import Example
    from cl_bench.training.loss import AnswerOutputs
    from cl_bench.training.update_plan import UpdatePlan

T = TypeVar("T")
Batch = Mapping[str, "Tensor"]
"""`input_ids`, `attention_mask`, `labels` [B, T], padded, and `example` [B], all int64.

Labels are -100 where nothing is learned and not shifted; `example` are numbers of `Stage.number`.
"""
Loss = Callable[[Batch, "AnswerOutputs"], "Tensor"]
"""A mean over the answer tokens of a batch, with a gradient."""
Share = Callable[[Sequence["Example"], Sequence[int]], Iterable[dict[str, "Tensor"]]]
"""This process's padded batches of examples, given with their numbers."""


class Library(Protocol):
    """What a stage can look up in the experiment around it."""

    def weights(self, k: int) -> Mapping[str, Tensor]:
        """See `Stage.weights`."""

    def task_examples(self, name: str) -> Sequence[Example]:
        """See `Stage.task_examples`."""

    def score(self, example: Example, text: str) -> float:
        """See `Stage.score`."""


@dataclass
class Stage:
    """What a method sees of the stage it runs in.

    `model` may be replaced by `prepare` (an adapter wraps it). `earlier` holds the training
    examples of the tasks that the model was trained on before, oldest first: each task once, with
    all examples that any stage saw, but not what this stage trains (again). Of a stage for several
    tasks `task` is `joint`. `all_reduce` sums a tensor over all processes, in place. `notes` is
    what the method wants recorded in `scores.json` (for example the share of frozen rows).
    """

    index: int
    task: str
    seed: int
    train: TrainConfig
    model: nn.Module
    examples: Sequence[Example]
    earlier: Sequence[tuple[str, Sequence[Example]]]
    device: torch.device
    share: Share
    all_reduce: Callable[[Tensor], None]
    epochs: int = 1
    tokenizer: Any = None
    library: Library | None = None
    writer: Callable[..., list[str]] | None = None
    """`evaluation.shared_prefix.texts.generate_texts`, which `generate` asks."""
    scratch: Path | None = None
    first_tells: Callable[[Callable[[], Any]], Any] = lambda work: work()
    """What the first process's `work` returned (a JSON value), for all of them."""
    notes: dict[str, Any] = field(default_factory=dict)
    mixture: Sequence[Example] = ()
    """What an epoch sees: the stage's examples after every method's `examples`."""
    ordinary: Callable[[], AbstractContextManager[None]] = nullcontext
    """While open, the model is an ordinary one; in the middle of a phase it is not."""
    start: str = "previous"
    """`previous` or `base`: which model it began with."""
    passed: Callable[[Mapping[str, Tensor], Iterable[Any]], Iterable[Any]] | None = None
    """`experiment.midway.passes.Passes.passed`, which `remaining` asks."""
    selection: dict[str, Tensor] = field(default_factory=dict)
    """What `Method.plan` chose and `keep_scores` was given, as it is kept beside the stage."""
    chat: Chat | None = None
    """How the experiment's tasks are asked, for texts of a method's own; None: in plain text."""
    in_phase: bool = False
    """Whether the weights are being trained from copies of higher precision."""

    def __post_init__(self) -> None:
        self._numbers = Numbering(
            self.examples, [each for _, some in self.earlier for each in some]
        )

    @property
    def first(self) -> bool:
        """Whether the model was trained on nothing before this stage."""
        return self.index == 1 or self.start == "base"

    @property
    def folder(self) -> Path:
        """An empty folder for the method's own files, made when it is first asked for.

        It lasts as long as the stage is trained and is removed before the stage is saved, by an
        interrupted run too when that goes on. What must outlive the stage goes into `state`. All
        processes have the same one.
        """
        if self.scratch is None:
            raise RunError("stage.folder: this stage is trained without a folder of its own")
        self.scratch.mkdir(parents=True, exist_ok=True)
        return self.scratch.resolve()

    @property
    def kept_on(self) -> torch.device:
        """Where a method keeps tensors that are as large as weights: `train.offload` says."""
        import torch

        return torch.device("cpu") if "method" in self.train.offload else self.device

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator of the method's own, fixed by (seed, stage, purpose)."""
        import torch

        from cl_bench.seeds import derive_seed

        return torch.Generator().manual_seed(derive_seed(self.seed, self.index, purpose))

    def sample(self, n: int, purpose: str) -> list[Example]:
        """`n` of the stage's examples (or all) in order, fixed by (seed, stage, purpose).

        A smaller sample of the same purpose is part of a larger one.
        """
        import torch

        order = torch.randperm(len(self.examples), generator=self.generator(purpose))
        return [self.examples[i] for i in sorted(order[: max(n, 0)].tolist())]

    def number(self, example: Example) -> int:
        """The number by which batches name an example, the same through the whole stage.

        The stage's own are numbered from 0 in their order (`stage.examples[number]`), then those of
        `earlier` as they come, oldest first, then others (generated ones) in the order in which
        they are first asked for or handed to `batches` or a `Phase`. Equal examples have one.
        """
        return self._numbers.number(example)

    def example(self, number: int) -> Example:
        """The example of a number that `number` gave or a batch holds."""
        return self._numbers.example(int(number))

    def batches(self, examples: Sequence[Example]) -> Iterable[dict[str, Tensor]]:
        """Padded batches of any examples (`Batch`): this process's share, on the device.

        Every example once, short ones together. What is summed over batches is summed over
        processes with `all_reduce`.
        """
        return self.share(examples, [self.number(example) for example in examples])

    def keep_scores(
        self,
        scores: Mapping[str, Tensor],
        first: Mapping[str, Tensor] | None = None,
        second: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Keep what ranks parameters, for `cl-bench inspect`; in `plan`, `finish` or between.

        By parameter name, in the shape of its rows, columns or entries, higher is more important,
        summed over processes. `first`, `second`: the same made of either half of the examples;
        `first` alone where scores are sums over examples. `small_scores` makes little of scores
        that are to be set aside meanwhile. Of several methods the first is heard, and nothing is
        kept of adapters, which are no parameters of the model.
        """
        from cl_bench.models.checkpoints import is_adapter
        from cl_bench.training.kept_scores import other_half, score_tensors, small_scores

        known = any(key.startswith("score/") for key in self.selection)
        if known or is_adapter(self.model):
            return
        whole = small_scores(scores, self.model)
        halves = None
        if first is not None:
            one = small_scores(first, self.model)
            other = other_half(whole, one) if second is None else small_scores(second, self.model)
            halves = one, other
        self.selection |= score_tensors(whole, halves, self.model)

    def keep_choice(self, name: str, chosen: Tensor) -> None:
        """Keep which entries of a parameter were chosen, where no plan did (a merge), as above.

        `chosen`: bool, of the parameter's shape; `Layout.spread` gives one of whole rows.
        """
        from cl_bench.training.selections import KINDS, choice_tensors

        shape, kind = tuple(chosen.shape), "entries"
        if len(shape) > 1 and chosen.stride(-1) == 0:
            kind, chosen = "rows", chosen[..., 0]
        elif len(shape) > 1 and chosen.stride(-2) == 0:
            kind, chosen = "columns", chosen[..., 0, :]
        if all(f"{other}/{name}" not in self.selection for other in KINDS if other != kind):
            self.selection |= choice_tensors(name, shape, kind, chosen)

    def remaining(self, sums: Mapping[str, Tensor], batches: Iterable[T]) -> Iterable[T]:
        """The batches of a pass that are still to be added to `sums`, which begin as zeros.

        For long passes over data in `prepare`, `plan`, `phases` and `finish`: all of `batches`, or
        where an interrupted run had done a part of them the others, and `sums` hold that part. Only
        `sums` may change with a batch, in place. Within updates it is all of them.
        """
        return batches if self.passed is None or self.in_phase else self.passed(sums, batches)

    @property
    def numbered(self) -> int:
        """How many examples have a number so far."""
        return len(self._numbers)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy on the CPU of the model's weights as they are, for `load` or `Phase.start`."""
        state = self.model.state_dict()
        return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Write weights by name into the model, rounded to its dtype; the others stay.

        Raises RunError in the middle of a phase, where the next update would undo it, and for a
        name that the model does not have.
        """
        import torch

        if self.in_phase:
            raise RunError(
                "stage.load: not in the middle of a phase, where the weights are trained from "
                "copies of higher precision: change `masters` in after_step"
            )
        own = self.model.state_dict()
        if unknown := [name for name in weights if name not in own]:
            from cl_bench.errors import nearest

            hint = nearest(unknown[0], own) if len(own) < 20 else ""
            raise RunError(f"stage.load: the model has no weight {unknown[0]}{hint}")
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)

    def weights(self, k: int) -> Mapping[str, Tensor]:
        """The weights after stage `k` of this run (0: the base model's), read when they are used.

        By parameter name of the plain model, adapters merged, in the run's dtype on the CPU. Raises
        RunError where `k` is not before this stage or its checkpoint was deleted.
        """
        return self._library().weights(k)

    def task_examples(self, name: str) -> Sequence[Example]:
        """Training examples of any task of the config, of a stage or of General, trained on or not.

        Those of a stage are the ones it trains on (`limit:`); of a benchmark without a training
        split those that its shots are drawn from. Raises UserError for a task that the config does
        not name, or that has neither.
        """
        return self._library().task_examples(name)

    def score(self, example: Example, text: str) -> float:
        """What the example's task gives a text as its answer, 0 to 1, higher is better.

        The task's own filters and headline metric. A choice is right or wrong (1 or 0).
        """
        return self._library().score(example, text)

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        temperature: float = 0.0,
        purpose: str = "generate",
    ) -> list[str]:
        """The model's continuations of prompts, which are cut as in training; up to the EOS.

        Greedy at temperature 0, else sampled from all tokens. A text depends on the weights, its
        prompt and (seed, stage, purpose) alone: not on the other prompts or their order (but for
        the rounding of 16-bit logits). Of several processes, all of which must call this, the first
        generates, and all get its texts.
        """
        from cl_bench.seeds import derive_seed

        write = self.writer
        if write is None or self.tokenizer is None:
            raise RunError("stage.generate: this stage is trained without an engine or a tokenizer")

        seeds = [derive_seed(self.seed, self.index, purpose, prompt) for prompt in prompts]

        def work() -> list[str]:
            with self.ordinary():
                return write(
                    self.model,
                    self.tokenizer,
                    self.train,
                    prompts,
                    max_new_tokens,
                    temperature,
                    seeds,
                )

        texts: list[str] = self.first_tells(work)
        return texts

    def _library(self) -> Library:
        if self.library is None:
            raise RunError("this stage is trained without an experiment around it")
        return self.library


@dataclass(frozen=True)
class Phase:
    """One pass of the training loop within a stage, with its own optimiser and schedule."""

    examples: Sequence[Example]
    epochs: int
    plan: UpdatePlan | None = None
    """Which parameters may move; None: as `Method.plan` said."""
    lr: float | None = None
    """Peak learning rate; None: `train.lr`."""
    start: Mapping[str, Tensor] | None = None
    """The weights it begins with (`Stage.snapshot`); None: those that the model has."""


@dataclass
class Step:
    """One optimiser update, before clipping. Tensors are fp32 and compact (see the engine)."""

    number: int
    """From 1 in every phase."""
    lr: float
    grads: Mapping[str, Tensor]
    masters: Mapping[str, Tensor]
    compact: Callable[[str, Tensor], Tensor]
    """Takes a dense tensor of a parameter's shape to the shape of its `grads` entry."""
    gradients: Callable[[Iterable[Batch], Loss | None], Mapping[str, Tensor]]

    def gradient_of(
        self, batches: Iterable[Batch], loss: Loss | None = None
    ) -> Mapping[str, Tensor]:
        """Gradient of a loss on other batches, over all processes, leaving `grads` as it was.

        `loss(batch, outputs)` is a mean over the answer tokens of a batch; the result is the
        gradient of the mean over all of them. Default: the answer loss.
        """
        return self.gradients(batches, loss)

    def add(self, term: Callable[[Mapping[str, Tensor]], Tensor]) -> Tensor:
        """Add to the loss what depends on the trained weights alone; returns its value, detached.

        `term` gets `masters` (compact: `compact` takes dense tensors to their shapes) and returns a
        scalar, whose gradient is added to `grads` once, however the batch is split. Raises RunError
        for a value without a gradient.
        """
        import torch

        leaves = {name: value.detach().requires_grad_() for name, value in self.masters.items()}
        with torch.enable_grad():
            value = term(leaves)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise RunError("step.add: the function must return one number, as a tensor")
        found: Sequence[Tensor | None] = [None]
        if value.requires_grad:
            found = torch.autograd.grad(value.reshape(()), list(leaves.values()), allow_unused=True)
        if all(gradient is None for gradient in found):
            raise RunError(
                "step.add: the value has no gradient, which would change nothing: build it from "
                "the masters that the function is given"
            )
        for name, gradient in zip(leaves, found, strict=True):
            if gradient is not None:
                self.grads[name].add_(gradient)
        return value.detach()
