"""LoKI: rows that other knowledge uses least (Wang et al., AAAI 2026; Nexround/LoKI)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Options, Stage, State
from cl_bench.models.places import layer_of

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.data.examples import Example
    from cl_bench.training.update_plan import UpdatePlan


class LoKIOptions(Options):
    """Options of LoKI."""

    task: str | None = Field(
        None,
        description="whose use of the rows counts, a task of the config (the paper: MMLU, here "
        "the questions that its shots come from); without one the earlier stages, and the first "
        "stage is trained fully",
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="share of the rows that is trained; the paper advises 0.1 to 0.3"
    )
    examples: Annotated[int, Field(gt=0)] = Field(
        100, description="how many examples of the other task are looked at"
    )
    steps: Annotated[int, Field(ge=2)] = Field(
        10, description="points of the integral; each costs a pass for every layer"
    )
    module: str = Field(
        "down_proj", description="last part of the name of the layers with the rows"
    )


class LoKI(Method[LoKIOptions]):
    """Train the rows of `down_proj` that contribute least to answers on other data.

    The contribution of a row to an example is the integrated gradient of the probability of the
    token that the model itself predicts behind the prompt, with respect to the row's output at the
    last position, on the line from the layer's output for token ids of 0 to its output
    (trapezoids). In each example and layer the rows with the lowest (signed) contributions are
    marked; the rows of a layer that are marked most often are trained, the same share in every
    layer. A bias follows its rows; everything else is frozen. This is the official code's rule (its
    normalisation before marking changes no order). With `task` rows are chosen once, before the
    first stage. The paper is on one fine-tuning after MMLU: what counts as other data in a sequence
    of tasks, and whether rows are chosen anew, is open there, and `task: null` is our answer.
    """

    name = "loki"
    family = "masks"
    source = "Wang 2026, Nexround/LoKI"
    keeps = ("statistics", "examples")

    def trains(self, shapes: Shapes) -> Trained | None:
        """So many rows of every such layer. Raises UserError where there is none."""
        from dataclasses import replace

        from cl_bench.costs.added import Cost, Disk
        from cl_bench.costs.kept_selection import choice_bytes, score_bytes
        from cl_bench.costs.trained import only

        found = {
            name: shapes.parameters[name]
            for name in shapes.parameters
            if self._is_meant(name) and shapes.layout(name).linear and shapes.layout(name).inputs
        }
        if not found:
            raise UserError(f"loki: module: {self.options.module}: no linear layer is called so")
        if self.options.task is None and not shapes.earlier:
            return None
        rows = {n: self._count(s[shapes.layout(n).units[0]]) for n, s in found.items()}
        trained = sum(k * found[n][shapes.layout(n).inputs[0]] for n, k in rows.items())
        index, entry = 8, shapes.entry_bytes
        kept = choice_bytes(shapes, lambda name, shape: math.prod(shape[:-1]) * (name in found))
        kept += score_bytes(shapes, "rows", found.__contains__)
        return replace(
            only(shapes, lambda name: False),
            gradients=entry * trained,
            optimiser=3 * entry * trained + index * sum(rows.values()),
            flops_per_token=4 * shapes.products + 2 * trained,
            entries=trained,
            delta=shapes.dtype_bytes * trained + index * sum(rows.values()),
            inputs_kept=frozenset(found),
            adds=Cost(disk=Disk(selection=kept)),
        )

    def adds(self, shapes: Shapes) -> Cost:
        """For every layer so many passes forward and back to it, on the other examples.

        In the first stage if they are a task's, else in all later ones.
        """
        from cl_bench.costs.added import Cost, Pass, Work

        if (self.options.task is None) != bool(shapes.earlier):
            return Cost()
        layers = sum(self._is_meant(name) for name in shapes.parameters)
        per_token = (4 * layers * self.options.steps + 4) * shapes.products
        return Cost(work=Work(passes=(Pass(per_token, self.options.examples),)))

    def load_state(self, state: State) -> None:
        """The rows that were chosen."""
        self._rows = dict(state.tensors)

    def state(self) -> State:
        """They are kept where they are chosen once."""
        return State(self._rows if self.options.task is not None else {})

    def plan(self, stage: Stage) -> UpdatePlan | None:
        """Those rows, and the same entries of their biases."""
        import torch

        from cl_bench.models.layouts import layouts
        from cl_bench.training.update_plan import Elements, Frozen, UpdatePlan, select

        other = self._other(stage)
        if not hasattr(self, "_rows") or self.options.task is None:
            self._rows = self._choose(stage, other) if other else {}
        if not self._rows:
            return None
        found, plan = layouts(stage.model), {}
        for name, rows in self._rows.items():
            shape = tuple(stage.model.get_parameter(name).shape)
            chosen = torch.zeros(shape[found[name].units[0]], dtype=torch.bool)
            chosen[rows] = True
            plan[name] = select(found[name], chosen, shape, "rows")
            bias = name.removesuffix("weight") + "bias"
            if bias in found:
                plan[bias] = Elements(chosen)
        return UpdatePlan(plan, default=Frozen())

    def _is_meant(self, name: str) -> bool:
        inside = layer_of(name) is not None
        return inside and f".{name}".endswith(f".{self.options.module}.weight")

    def _count(self, rows: int) -> int:
        return max(1, int(self.options.share * rows))

    def _other(self, stage: Stage) -> list[Example]:
        """A seeded sample of the other data."""
        import torch

        task = self.options.task
        if task is not None:
            examples = list(stage.task_examples(task))
        else:
            examples = [example for _, some in stage.earlier for example in some]
        order = torch.randperm(len(examples), generator=stage.generator("loki"))
        return [examples[i] for i in order[: self.options.examples].tolist()]

    def _choose(self, stage: Stage, other: Sequence[Example]) -> dict[str, Tensor]:
        """Indices [k] of each layer's rows, sorted."""
        import torch

        from cl_bench.importance.contributions import contributions_of
        from cl_bench.methods.estimates import in_halves
        from cl_bench.models.layouts import layouts

        model: Any = stage.model
        linear = {name for name, layout in layouts(model).items() if layout.linear}
        names = [n for n, _ in model.named_parameters() if self._is_meant(n) and n in linear]
        layers = [model.get_submodule(name.removesuffix(".weight")) for name in names]
        marks = {
            name: torch.zeros(_width(layer), dtype=torch.float64, device=stage.device)
            for name, layer in zip(names, layers, strict=True)
        }
        first: dict[str, Tensor] = {}
        halves = in_halves(other, stage.generator("loki halves"))
        for half in halves:
            for batch in stage.remaining(marks, stage.batches(half)):
                found = contributions_of(model, batch, layers, self.options.steps)
                for own, contributions in zip(marks.values(), found, strict=True):
                    lowest = contributions.argsort(dim=1, stable=True)
                    chosen = lowest[:, : self._count(len(own))].flatten()
                    own += torch.bincount(chosen, minlength=len(own))
            if len(halves) > 1 and not first:
                first = {name: own.clone() for name, own in marks.items()}
        for own in (*marks.values(), *first.values()):
            stage.all_reduce(own)
        stage.keep_scores(marks, first or None)
        most = {name: own.argsort(descending=True, stable=True) for name, own in marks.items()}
        return {
            n: order[: self._count(len(order))].sort().values.cpu() for n, order in most.items()
        }


def _width(layer: Any) -> int:
    from cl_bench.models.layouts import is_conv1d

    return int(layer.weight.shape[1 if is_conv1d(layer) else 0])
