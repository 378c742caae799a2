"""Several methods as one: `{compose: [fggm, replay]}`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from cl_bench.errors import UserError
from cl_bench.methods.base import Batch, Method, Phase, Stage, State, Step, overrides
from cl_bench.methods.state import give_state, state_of

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.data.examples import Example
    from cl_bench.methods.spec import StageSpec
    from cl_bench.training.loss import AnswerOutputs
    from cl_bench.training.update_plan import UpdatePlan


class Composite(Method):
    """Calls every part in the order given.

    Gradients, penalties and examples pass through all parts in turn. Only one part may restrict
    the parameters (`plan`) and only one may define phases: two answers cannot both hold.
    """

    name = "compose"

    def __init__(self, parts: Sequence[Method]) -> None:
        super().__init__()
        self.parts = list(parts)
        self._planned: list[str] = []

    def schedule(self, stages: Sequence[StageSpec]) -> list[StageSpec]:
        """Each part reorders what the part before gave."""
        result = list(stages)
        for part in self.parts:
            result = part.schedule(result)
        return result

    def trains(self, shapes: Shapes) -> Trained | None:
        """What the part that restricts the parameters trains; of several, what needs most.

        Those of the user's own may take turns: one restricts the first stage, one the others.
        """
        from cl_bench.costs.total import alone

        found = [given for part in self.parts if (given := part.trains(shapes)) is not None]
        return max(found, key=lambda given: alone(given).memory, default=None)

    def adds(self, shapes: Shapes) -> Cost:
        """The sum of what all parts add; a part that chooses what is trained comes first.

        The scores of one part alone are kept, of that one.
        """
        from dataclasses import replace

        from cl_bench.costs.added import Cost

        choosing_first = sorted(self.parts, key=lambda part: not overrides(type(part), "trains"))
        added = [part.adds(shapes) for part in choosing_first]
        kept = next((one.disk.selection for one in added if one.disk.selection), 0)
        whole = sum(added, Cost())
        return replace(whole, disk=replace(whole.disk, selection=kept))

    def earlier_weights(self, stage: StageSpec) -> Iterable[int]:
        """What any part reads."""
        return {number for part in self.parts for number in part.earlier_weights(stage)}

    def prepare(self, stage: Stage) -> None:
        """In order; a part that wraps the model shows the wrapped one to the next."""
        for part in self.parts:
            part.prepare(stage)

    def plan(self, stage: Stage) -> UpdatePlan | None:
        """The one plan given; raises UserError if two parts restrict the parameters."""
        plans = [(part.name, plan) for part in self.parts if (plan := part.plan(stage)) is not None]
        self._planned = [name for name, _ in plans]
        found: UpdatePlan | None = _at_most_one(plans, "decide which parameters are trained")
        return found

    def examples(self, stage: Stage, examples: Sequence[Example]) -> Sequence[Example]:
        """Each part adds to, or takes from, what the part before left."""
        for part in self.parts:
            examples = part.examples(stage, examples)
        return examples

    def phases(self, stage: Stage) -> Iterator[Phase]:
        """Those of the part that has its own; raises UserError if two have, or two have plans."""
        own = [part for part in self.parts if part.answers("phases")]
        part: Method | None = _at_most_one([(p.name, p) for p in own], "define training phases")
        if part is None:
            yield from super().phases(stage)
            return
        for phase in part.phases(stage):
            if isinstance(phase, Phase) and phase.plan is not None:
                others = [(name, None) for name in self._planned if name != part.name]
                _at_most_one([(part.name, None), *others], "decide which parameters are trained")
            yield phase

    def penalty(self, batch: Batch, outputs: AnswerOutputs) -> Tensor | None:
        """The sum of the parts' terms."""
        terms = [term for part in self.parts if (term := part.penalty(batch, outputs)) is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def after_micro_batch(self, grads: Mapping[str, Tensor]) -> None:
        """Every part."""
        for part in self.parts:
            part.after_micro_batch(grads)

    def begin_again(self) -> bool:
        """Whether every part can."""
        return all(part.begin_again() for part in self.parts)

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

    @property
    def scores_another(self) -> bool:
        """Whether a part does."""
        return any(part.scores_another for part in self.parts)

    def scored(self, stage: Stage) -> AbstractContextManager[Any]:
        """That of the part that has its own; raises UserError if two have."""
        own = [(p.name, p) for p in self.parts if p.scores_another]
        part: Method | None = _at_most_one(own, "say which model is scored")
        return super().scored(stage) if part is None else part.scored(stage)

    def state(self) -> State:
        """Keys are prefixed with the part's name."""
        return state_of(self)

    def load_state(self, state: State) -> None:
        """Undoes the prefix; parts of which nothing was kept are not asked."""
        give_state(self, state)


def _at_most_one(given: list[tuple[str, Any]], what: str) -> Any:
    if len(given) > 1:
        names = " and ".join(name for name, _ in given)
        raise UserError(f"methods: compose: {names} both {what}; only one part may")
    return given[0][1] if given else None
