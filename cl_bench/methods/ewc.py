"""Elastic weight consolidation (Kirkpatrick et al. 2017), online (Schwarz et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Options, Stage, State, Step, unsplit
from cl_bench.methods.estimates import Estimator, fisher_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.methods.spec import StageSpec

NORMALISED = {
    "per_sample": "the mean over examples of the squared gradient of an answer's log-likelihood",
    "batch": "the mean over batches of the squared gradient of a batch's mean loss",
    "trace": "the sum over updates of the squared gradient of the loss, over updates an epoch",
}
"""What lambda multiplies: it means nothing without."""


class EWCOptions(Options):
    """Options of EWC. TRACE's lambda is 400, for its own much smaller Fisher estimate."""

    strength: Annotated[float, Field(gt=0, alias="lambda")] = Field(
        400.0,
        alias="lambda",
        description="strength of the pull; it is comparable for one mode and estimator only",
    )
    mode: Literal["online", "per_task", "trace"] = Field(
        "online",
        description="one Fisher and the last weights; those of every task; or as TRACE's code does",
    )
    estimator: Estimator = Field(
        "per_sample",
        description="the Fisher is a mean over examples, or over batches of squared gradients",
    )
    gamma: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="how much of the Fisher of earlier stages is kept (online EWC)"
    )
    anchors: Annotated[int, Field(gt=0)] | None = Field(
        None,
        description="so many of the last stages pull: online their mean (default 1), per_task "
        "their sum (default all)",
    )
    fisher_examples: Annotated[int, Field(gt=0)] | None = Field(
        None, description="examples of each stage the Fisher is taken from; all by default"
    )

    @property
    def remembered(self) -> int | None:
        """Of how many last stages a Fisher is kept; None: all."""
        return 1 if self.anchors is None and self.mode != "per_task" else self.anchors

    @property
    def normalised(self) -> str:
        """What the Fisher is, in words."""
        return NORMALISED["trace" if self.mode == "trace" else self.estimator]


class EWC(Method[EWCOptions]):
    """loss + lambda/2 * sum F (theta - theta*)^2, its gradient added once per update.

    After a stage: `F <- gamma F + F_stage`, `F_stage` the mean over the stage's examples of the
    squared per-sample gradient of the summed answer log-likelihood, at the weights the stage ended
    with; `theta*` are those weights. The pull does not depend on the data, so it enters once per
    update however the batch is split.

    `per_task` is the first paper's: a term for every earlier task, with its own F and theta*.
    `anchors: n` pulls towards several, as n-step TD-VCL does with posteriors: online towards the
    mean of the terms that the last n stages would give. `trace` is TRACE's code at a gradient
    accumulation of 1: F is summed up while training, the pull's own gradient included, over all
    epochs and tasks, divided by the updates of an epoch, and pulls while it grows. In that code the
    sum is in the model's dtype, where small terms are lost; here it is in float32.
    """

    name = "ewc"
    family = "penalties"
    splits = True
    offloads = True
    source = "Kirkpatrick 2017, arXiv 1612.00796"
    keeps = "statistics"

    def __init__(self, options: EWCOptions | None = None) -> None:
        super().__init__(options)
        self._past: dict[int, dict[str, Tensor]] = {}
        """The Fisher of each remembered stage, oldest first; the newest where only one is."""
        self._anchors: dict[int, Mapping[str, Tensor]] = {}
        self._stage: Stage | None = None

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """Options that the mode has no use for, and earlier weights of adapters."""
        options, given = self.options, self.options.model_fields_set
        unused = {
            "online": [],
            "per_task": ["gamma"],
            "trace": ["estimator", "gamma", "anchors", "fisher_examples"],
        }
        for key in unused[options.mode]:
            if key in given:
                yield f"{key}: mode: {options.mode} has no use for it; leave it out"
        if stage.train.splitting:
            yield from unsplit(
                (f"mode: {options.mode}", options.mode != "online", "online"),
                (f"anchors: {options.anchors}", options.remembered != 1, "no anchors"),
                ("estimator: batch", options.estimator == "batch", "per_sample"),
            )
        if stage.adapters and options.remembered != 1:
            yield (
                "the earlier weights of an adapter are not kept, so only those that a stage begins "
                "with can pull; give mode: online and no anchors"
            )

    def earlier_weights(self, stage: StageSpec) -> Iterable[int]:
        """Those that it pulls towards: of any stage before, where it remembers several."""
        return () if self.options.remembered == 1 else range(1, stage.index)

    def adds(self, shapes: Shapes) -> Cost:
        """A Fisher and an anchor of every entry, and one Fisher pass a stage.

        The Fisher is saved beside each checkpoint; the anchor is the checkpoint before. With
        `per_task` and without `anchors` that for every earlier stage.
        """
        from dataclasses import replace

        from cl_bench.costs.added import (
            Cost,
            Disk,
            Memory,
            Work,
            batch_fisher_pass,
            fisher_pass,
            kept,
        )
        from cl_bench.costs.kept_selection import score_bytes, score_memory

        options = self.options
        fisher = shapes.entry_bytes * shapes.numel
        anchor = shapes.dtype_bytes * shapes.numel
        said = Cost(remarks=(f"lambda {options.strength:g} times {options.normalised}",))
        if options.remembered is None:
            memory = Memory(held_each=fisher + anchor, movable_each=fisher + anchor)
            tensors = Cost(memory, disk=Disk(state=fisher, state_each=fisher))
        else:
            count = options.remembered
            tensors = kept(count * fisher, saved=True) + kept(count * anchor)
            held = tensors.memory.held
            tensors = replace(tensors, memory=replace(tensors.memory, split=held, movable=held))
        if options.mode == "trace":
            return tensors + said
        if options.estimator == "batch":
            scoring = batch_fisher_pass(shapes, "elements", options.fisher_examples)
        else:
            scoring = fisher_pass(shapes, "elements", options.fisher_examples)
            small = score_memory(shapes, "elements", lambda name: True)
            held = 2 * fisher  # the old one and the new
            scoring = replace(scoring, held=held + small, split=held, movable=fisher)
        scores = 0 if shapes.backbone else score_bytes(shapes, "elements", lambda name: True)
        disk = Disk(selection=scores)
        return tensors + Cost(work=Work(passes=(scoring,)), disk=disk) + said

    def prepare(self, stage: Stage) -> None:
        """theta* is where the stage before ended, which is where this one begins."""
        from cl_bench.training.sharding import copied, split_as

        self._stage = stage  # its mixture is known only later
        parameters = dict(stage.model.named_parameters())
        for fisher in self._past.values():
            if unknown := fisher.keys() - parameters.keys():
                raise UserError(
                    "ewc: its Fisher is of parameters that this stage's model lacks "
                    f"({min(unknown)} and {len(unknown) - 1} more): it cannot go on in a stage "
                    "that trains others (weights, an adapter, a new adapter) than its last one"
                )
        for k, fisher in self._past.items():
            self._past[k] = {
                name: split_as(value.to(stage.kept_on), parameters[name])
                for name, value in fisher.items()
            }
            there = parameters if k in (0, stage.index - 1) else stage.weights(k)
            self._anchors[k] = {
                name: copied(there[name].to(parameters[name].dtype), stage.kept_on)
                for name in fisher
            }
        if self.options.mode == "trace" and not self._past:
            # Nothing pulls in the first stage, but its gradients are summed.
            self._past[0] = _zeros(stage.model, stage.kept_on)

    def before_step(self, step: Step) -> None:
        """grad += lambda F (theta - theta*), of every stage that pulls."""
        strength = self.options.strength
        if self.options.mode == "online":
            strength /= max(len(self._past), 1)
        for k, anchors in self._anchors.items():
            fisher = self._past[k]
            for name in fisher.keys() & step.grads.keys():
                anchor = step.compact(name, anchors[name])
                drift = step.masters[name] - anchor.to(step.masters[name].dtype)
                step.grads[name].addcmul_(step.compact(name, fisher[name]), drift, value=strength)
        if self.options.mode == "trace" and self._stage is not None:
            updates = -(-len(self._stage.mixture) // self._stage.train.batch_size)
            _add_squares(self._past[max(self._past)], step, updates)

    def finish(self, stage: Stage) -> None:
        """F <- gamma F + mean over examples of the squared per-sample gradient."""
        from cl_bench.importance.fisher import trainable_parameters
        from cl_bench.training.sharding import whole

        options, newest = self.options, max(self._past, default=0)
        self._anchors, self._stage = {}, None
        if options.mode != "trace":
            names = trainable_parameters(stage.model)
            limit = options.fisher_examples
            half: dict[str, Tensor] = {}
            new, count = fisher_of(stage, "ewc", options.estimator, "elements", limit, names, half)
            stage.keep_scores(new, half)
            for name, value in new.items():
                value.div_(count)
                if options.mode == "online" and name in self._past.get(newest, {}):
                    value.add_(self._past[newest][name].to(value.device), alpha=options.gamma)
            self._past[newest := stage.index] = new
            if options.remembered is not None:
                self._past = dict(list(self._past.items())[-options.remembered :])
        fisher = self._past[newest]
        entries = sum(value.numel() for value in fisher.values())
        sums = (float(whole(value.double().sum())) for value in fisher.values())
        mean = sum(sums) / max(entries, 1)
        stage.notes["fisher"] = options.normalised
        stage.notes["lambda_times_mean_fisher"] = options.strength * mean

    def state(self) -> State:
        """The accumulated Fisher, of several by their stage; anchors are checkpoints."""
        from cl_bench.training.sharding import whole

        if self.options.remembered == 1:
            return State({n: whole(v).cpu() for one in self._past.values() for n, v in one.items()})
        tensors = {f"{k}/{n}": v.cpu() for k, one in self._past.items() for n, v in one.items()}
        return State(tensors, {"stages": list(self._past)})

    def load_state(self, state: State) -> None:
        """The Fisher of all stages so far, or of each that is remembered."""
        if "stages" not in state.records:
            self._past = {0: dict(state.tensors)}
            return
        self._past = {k: {} for k in state.records["stages"]}
        for key, value in state.tensors.items():
            k, _, name = key.partition("/")
            self._past[int(k)][name] = value


def _zeros(model: Any, device: torch.device) -> dict[str, Tensor]:
    """A Fisher of 0 for all that may be trained, in the masters' dtype."""
    import torch

    return {
        name: torch.zeros_like(
            p,
            dtype=torch.promote_types(p.dtype, torch.float32),
            requires_grad=False,
            device=device,
        )
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def _add_squares(fisher: Mapping[str, Tensor], step: Step, updates: int) -> None:
    """F += gradient^2 / updates an epoch, in place: the pull of the next update has it."""
    import torch

    for name, gradient in step.grads.items():
        own = fisher[name]
        gradient = gradient.to(own.device)
        if gradient.shape == own.shape:
            own.addcmul_(gradient, gradient, value=1 / updates)
        else:  # a part of the parameter is trained
            every = torch.arange(own.numel(), device=own.device).view_as(own)
            place = step.compact(name, every).flatten().to(own.device)
            own.view(-1).index_add_(0, place, gradient.flatten().square() / updates)
