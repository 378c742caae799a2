"""OGD: orthogonal gradient descent (Farajtabar et al. 2020, arXiv 1910.07104), for adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cl_bench.errors import UserError
from cl_bench.methods.adapter_options import AdapterOptions
from cl_bench.methods.base import Stage, State, Step
from cl_bench.methods.lora import LoRA

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.training.loss import AnswerOutputs


class OGDOptions(AdapterOptions):
    """Options of OGD; those of the adapter are TRACE's."""

    directions: Annotated[int, Field(ge=0)] = Field(
        200, description="how many are kept at most, shared equally by the tasks so far; 0 is lora"
    )
    gradient: Literal["logit", "loss"] = Field(
        "logit", description="of the logits of the answer's tokens (the paper), or of their loss"
    )
    project: Literal["gradient", "update"] = Field(
        "gradient", description="what is made orthogonal: the gradient, or what AdamW makes of it"
    )


class OGD(LoRA):
    """LoRA whose gradient is made orthogonal to those of examples of earlier stages: g -= B' B g.

    After a stage, for each of some of its examples, the gradient of the mean logit of its answer's
    tokens (the paper's variant OGD-GTL) is made orthogonal to the rows of B (Gram-Schmidt, twice)
    and becomes one of them, over all matrices of the adapter together. B holds at most `directions`
    rows: with every new task the others keep the first of theirs. The paper steps along the
    projected gradient; AdamW, which it does not use, leaves it, which `project: update` undoes.
    TRACE's code appends one and the same buffer in every step, projects with slices of B that are
    not orthonormal, and ignores its bound; none of that is done here.
    """

    name = "ogd"
    family = "projections"
    source = "Farajtabar 2020, arXiv 1910.07104"
    keeps = "statistics"
    options_type = OGDOptions
    options: OGDOptions

    def adds(self, shapes: Shapes) -> Cost:
        """All directions, which are the state on disk too, and a gradient for each new one."""
        from cl_bench.costs.added import Cost, Pass, Work, kept

        count = self.options.directions
        passing = Pass(4 * shapes.products + 2 * (shapes.products - shapes.backbone), count)
        nbytes = count * shapes.entry_bytes * shapes.numel
        return kept(nbytes, saved=True) + Cost(work=Work(passes=(passing,) if count else ()))

    def load_state(self, state: State) -> None:
        """B and how many of its rows are of each task."""
        self._basis, self._counts = state.tensors["basis"], list(state.records["counts"])

    def state(self) -> State:
        """B [k, P] over the adapter's matrices in the order of their names."""
        if not self.options.directions:
            return State()
        return State({"basis": self._basis.cpu()}, {"counts": self._counts})

    def prepare(self, stage: Stage) -> None:
        """The adapter, and B of the stages before."""
        import torch

        super().prepare(stage)
        named = dict(stage.model.named_parameters())
        self._sizes = {n: named[n].numel() for n in sorted(named) if "lora_" in n}
        like = named[next(iter(self._sizes))]
        dtype, width = torch.promote_types(like.dtype, torch.float32), sum(self._sizes.values())
        if not hasattr(self, "_basis"):
            self._basis, self._counts = torch.zeros(0, width, dtype=dtype), []
        if self._basis.shape[1] != width:
            raise UserError("ogd: its directions are of another adapter than this stage trains")
        self._basis = self._basis.to(device=stage.device, dtype=dtype)

    def before_step(self, step: Step) -> None:
        """g -= B' B g."""
        if self.options.project == "gradient":
            self._project(step.grads)
        else:
            self._before = {name: master.clone() for name, master in step.masters.items()}

    def after_step(self, masters: Mapping[str, Tensor]) -> bool:
        """The same of the step that was taken, where that is asked for."""
        if self.options.project == "gradient" or not len(self._basis):
            return False
        steps = {name: master - self._before[name] for name, master in masters.items()}
        self._project(steps)
        for name, taken in steps.items():
            masters[name].copy_(self._before[name] + taken)
        return True

    def finish(self, stage: Stage) -> None:
        """New rows of B, after room is made for them."""
        import torch

        from cl_bench.methods.gradients import gradient_on

        super().finish(stage)
        share = self.options.directions // (len(self._counts) + 1)
        parts = torch.split(self._basis, self._counts) if self._counts else ()
        self._counts = [min(share, count) for count in self._counts]
        rows = [row for part in parts for row in part[:share]]
        parameters = {name: stage.model.get_parameter(name) for name in self._sizes}
        own = 0
        for example in stage.sample(share, "ogd"):
            found = gradient_on(stage, [example], parameters, self._summed)
            row = torch.cat([found[name].flatten() for name in self._sizes])
            length = row.norm()
            for _ in range(2):
                for other in rows:
                    row = row - (other @ row) * other
            if row.norm() > 1e-5 * length:
                rows.append(row / row.norm())
                own += 1
        self._basis = torch.stack(rows) if rows else self._basis[:0]
        self._counts.append(own)
        stage.notes["directions"] = list(self._counts)

    def _summed(self, outputs: AnswerOutputs) -> Tensor:
        from cl_bench.training.cross_entropy import summed_cross_entropy

        if self.options.gradient == "loss":
            return summed_cross_entropy(outputs.logits, outputs.labels)
        return outputs.logits.gather(1, outputs.labels.unsqueeze(1)).sum()

    def _project(self, values: Mapping[str, Tensor]) -> None:
        """Take from `values`, in place, what lies along the rows of B."""
        import torch

        slices = torch.split(self._basis, [*self._sizes.values()], dim=1)
        parts = dict(zip(self._sizes, slices, strict=True))
        along = sum(part @ values[name].flatten() for name, part in parts.items())
        for name, part in parts.items():
            values[name].sub_((part.T @ along).view_as(values[name]))
