"""Several methods as one: `{compose: [fggm, replay]}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Phase, Stage, Step

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.training import Cost
    from cl_bench.data.examples import Example
    from cl_bench.methods.spec import StageSpec
    from cl_bench.training.loss import AnswerOutputs
    from cl_bench.training.update_plan import UpdatePlan


class Composite(Method):
    """Calls every part in the order given.

    Gradients, penalties and examples pass through all parts in turn. Only one part may restrict
    the parameters (`plan`) and only one may define phases: two answers cannot both hold.
    """

    def __init__(self, parts: Sequence[Method]) -> None:
        super().__init__()
        self.parts = list(parts)

    def schedule(self, stages: Sequence[StageSpec]) -> list[StageSpec]:
        """Each part reorders what the part before gave."""
        result = list(stages)
        for part in self.parts:
            result = part.schedule(result)
        return result

    def cost(self, shapes: Shapes) -> Cost:
        """That of the part that restricts the parameters, and what the others add to it.

        Beside adapters, the others see the adapters' shapes alone: nothing else is trained.
        """
        from cl_bench.costs.training import full_cost

        restricting = [part for part in self.parts if type(part).plan is not Method.plan]
        base = restricting[0].cost(shapes) if restricting else full_cost(shapes)
        inner = shapes.adapted(base.adapters) if base.adapters else shapes
        plain = full_cost(inner)
        for part in self.parts:
            if part not in restricting:
                base = base.plus(part.cost(inner), plain)
        return base

    def prepare(self, stage: Stage) -> None:
        """In order; a part that wraps the model shows the wrapped one to the next."""
        for part in self.parts:
            part.prepare(stage)

    def plan(self, stage: Stage) -> UpdatePlan | None:
        """The one plan given; raises UserError if two parts restrict the parameters."""
        plans = [(part.name, plan) for part in self.parts if (plan := part.plan(stage)) is not None]
        found: UpdatePlan | None = _at_most_one(plans, "decide which parameters are trained")
        return found

    def examples(self, stage: Stage, examples: Sequence[Example]) -> Sequence[Example]:
        """Each part adds to, or takes from, what the part before left."""
        for part in self.parts:
            examples = part.examples(stage, examples)
        return examples

    def phases(self, stage: Stage, examples: Sequence[Example], epochs: int) -> list[Phase] | None:
        """The one list given; raises UserError if two parts define phases."""
        phases = [
            (part.name, given)
            for part in self.parts
            if (given := part.phases(stage, examples, epochs)) is not None
        ]
        found: list[Phase] | None = _at_most_one(phases, "define training phases")
        return found

    def penalty(self, batch: Mapping[str, Tensor], outputs: AnswerOutputs) -> Tensor | None:
        """The sum of the parts' terms."""
        terms = [term for part in self.parts if (term := part.penalty(batch, outputs)) is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def after_micro_batch(self, grads: Mapping[str, Tensor]) -> None:
        """Every part."""
        for part in self.parts:
            part.after_micro_batch(grads)

    def before_step(self, step: Step) -> None:
        """Every part, on the same gradients."""
        for part in self.parts:
            part.before_step(step)

    def after_step(self, masters: Mapping[str, Tensor]) -> bool:
        """Every part; true if any changed the masters."""
        changed = [part.after_step(masters) for part in self.parts]
        return any(changed)

    def finish(self, stage: Stage) -> None:
        """Every part."""
        for part in self.parts:
            part.finish(stage)

    def state_dict(self) -> dict[str, Tensor]:
        """Keys are prefixed with the part's name."""
        return {
            f"{part.name}/{key}": value
            for part in self.parts
            for key, value in part.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undoes the prefix."""
        for part in self.parts:
            prefix = f"{part.name}/"
            part.load_state_dict(
                {
                    key[len(prefix) :]: value
                    for key, value in state.items()
                    if key.startswith(prefix)
                }
            )


def _at_most_one(given: list[tuple[str, Any]], what: str) -> Any:
    if len(given) > 1:
        names = " and ".join(name for name, _ in given)
        raise UserError(f"methods: compose: {names} both {what}; only one part may")
    return given[0][1] if given else None
