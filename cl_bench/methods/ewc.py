"""Elastic weight consolidation (Kirkpatrick et al. 2017), online (Schwarz et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Options, Stage, State, Step

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes


class EWCOptions(Options):
    """Options of EWC. TRACE's lambda is 400, for its own much smaller Fisher estimate."""

    strength: Annotated[float, Field(gt=0, alias="lambda")] = Field(
        400.0, alias="lambda", description="strength of the pull towards the old weights"
    )
    gamma: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="how much of the Fisher of earlier stages is kept (online EWC)"
    )
    fisher_examples: Annotated[int, Field(gt=0)] | None = Field(
        None, description="examples of each stage the Fisher is taken from; all by default"
    )


class EWC(Method[EWCOptions]):
    """loss + lambda/2 * sum F (theta - theta*)^2, its gradient added once per update.

    After a stage: `F <- gamma F + F_stage`, `F_stage` the mean over the stage's examples of the
    squared per-sample gradient of the summed answer log-likelihood, at the weights the stage ended
    with; `theta*` are those weights. The pull does not depend on the data, so it enters once per
    update however the batch is split. TRACE's code differs (Fisher gathered during training,
    penalty included, never reset: shared defects are listed in docs/methods.md); this is the
    published method.
    """

    name = "ewc"
    family = "penalties"
    source = "Kirkpatrick 2017, arXiv 1612.00796"
    keeps = "statistics"

    def __init__(self, options: EWCOptions | None = None) -> None:
        super().__init__(options)
        self.fisher: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}

    def adds(self, shapes: Shapes) -> Cost:
        """A Fisher and an anchor of every entry, and one Fisher pass a stage.

        The Fisher is saved beside each checkpoint; the anchor is the checkpoint before.
        """
        from dataclasses import replace

        from cl_bench.costs.added import Cost, Work, fisher_pass, kept

        fisher = shapes.entry_bytes * shapes.numel
        scoring = fisher_pass(shapes, "elements", self.options.fisher_examples)
        scoring = replace(scoring, held=2 * fisher)  # the old one and the new
        anchor = kept(shapes.dtype_bytes * shapes.numel)
        return kept(fisher, saved=True) + anchor + Cost(work=Work(passes=(scoring,)))

    def prepare(self, stage: Stage) -> None:
        """theta* is where the stage before ended, which is where this one begins."""
        parameters = dict(stage.model.named_parameters())
        if unknown := self.fisher.keys() - parameters.keys():
            raise UserError(
                f"ewc: its Fisher is of parameters that this stage's model lacks ({min(unknown)} "
                f"and {len(unknown) - 1} more): it cannot go on in a stage that trains others "
                "(weights, an adapter, a new adapter) than its last one"
            )
        self.fisher = {name: value.to(stage.device) for name, value in self.fisher.items()}
        self._anchor = {name: parameters[name].detach().clone() for name in self.fisher}

    def before_step(self, step: Step) -> None:
        """grad += lambda F (theta - theta*)."""
        for name in self.fisher.keys() & step.grads.keys():
            anchor = step.compact(name, self._anchor[name])
            drift = step.masters[name] - anchor.to(step.masters[name].dtype)
            step.grads[name].addcmul_(
                step.compact(name, self.fisher[name]), drift, value=self.options.strength
            )

    def finish(self, stage: Stage) -> None:
        """F <- gamma F + mean over examples of the squared per-sample gradient."""
        import torch

        from cl_bench.importance.fisher import fisher_scores, trainable_parameters

        examples = list(stage.examples)
        limit = self.options.fisher_examples
        if limit is not None and limit < len(examples):
            order = torch.randperm(len(examples), generator=stage.generator("ewc"))
            examples = [examples[i] for i in order[:limit].tolist()]
        names = trainable_parameters(stage.model)
        new = fisher_scores(stage.model, stage.batches(examples), "elements", modules=names)
        for name, value in new.items():
            stage.all_reduce(value)
            value.div_(len(examples))
            if name in self.fisher:
                value.add_(self.fisher[name], alpha=self.options.gamma)
        self.fisher = new
        self._anchor = {}

    def state(self) -> State:
        """The accumulated Fisher; the anchor is the checkpoint itself."""
        return State({name: value.cpu() for name, value in self.fisher.items()})

    def load_state(self, state: State) -> None:
        """The Fisher of all stages so far."""
        self.fisher = dict(state.tensors)
