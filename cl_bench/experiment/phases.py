"""The phases of a stage, as the method yields them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from cl_bench.errors import RunError
from cl_bench.methods.base import Method, Phase, Stage
from cl_bench.training.update_plan import UpdatePlan


def phases_of(method: Method, stage: Stage) -> Iterator[Phase]:
    """What the method yields, as it is asked for. Raises RunError for what is no phase."""
    given = method.phases(stage)
    if not isinstance(given, Iterable):
        raise RunError(f"method {method.name}: phases must `yield Phase(examples, epochs)`")
    for phase in given:
        fault = None
        if not isinstance(phase, Phase):
            fault = f"is {type(phase).__name__}, not a Phase"
        elif not len(phase.examples):
            fault = "has no examples"
        elif not isinstance(phase.epochs, int) or phase.epochs < 1:
            fault = f"has epochs {phase.epochs!r}: 1 or more"
        elif phase.plan is not None and not isinstance(phase.plan, UpdatePlan):
            fault = f"has a plan that is {type(phase.plan).__name__}, not an UpdatePlan"
        elif phase.start is not None and not isinstance(phase.start, Mapping):
            fault = f"has start {phase.start!r}: weights by name, as `stage.snapshot()` gives them"
        elif phase.lr is not None and not phase.lr > 0:
            fault = f"has lr {phase.lr!r}: more than 0"
        if fault is not None:
            raise RunError(f"method {method.name}: a phase that it yields {fault}")
        yield phase


@contextmanager
def model_is_ordinary_by(
    stage: Stage, paused: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """While open, `stage.ordinary` makes the model in training an ordinary one."""

    @contextmanager
    def ordinary() -> Iterator[None]:
        with paused():
            stage.in_phase = False
            try:
                yield
            finally:
                stage.in_phase = True

    before, stage.ordinary, stage.in_phase = stage.ordinary, ordinary, True
    try:
        yield
    finally:
        stage.ordinary, stage.in_phase = before, False
