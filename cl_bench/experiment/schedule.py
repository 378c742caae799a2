"""The stages of a run in the order that its method wants, and what is scored after each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cl_bench.data.tasks import canonical_name
from cl_bench.errors import UserError
from cl_bench.methods.base import kept_by, overrides
from cl_bench.methods.spec import Experiment, Scored, StageSpec
from cl_bench.scores.sequence import learned, seen


def schedule(
    experiment: Experiment, stages: Sequence[StageSpec], by_stage: bool
) -> tuple[StageSpec, ...]:
    """What the method of a run makes of the configured stages; each says what is scored after it.

    `by_stage`: every stage names its own method, and none of them can order all. Raises UserError.
    """
    parts = dict.fromkeys(part.method for stage in stages for part in stage.parts)
    ordering = [method.name for method in parts if overrides(method, "schedule")]
    if ordering and by_stage:
        raise UserError(
            f"{' and '.join(ordering)} decides about all stages, which the method: of a stage "
            "cannot: name it in methods:"
        )
    if len(ordering) > 1:
        raise UserError(
            f"compose: {' and '.join(ordering)} both decide about all stages; only one part may"
        )
    found = tuple(stages[0].build_method().schedule(stages))
    if faults := list(_faults(experiment, found, ordering)):
        raise UserError(faults)
    return tuple(
        replace(stage, scored=scored(experiment, found, position))
        for position, stage in enumerate(found)
    )


def _faults(
    experiment: Experiment, stages: Sequence[StageSpec], ordering: Sequence[str]
) -> Iterator[str]:
    """What no later code could make sense of, and parts that would do nothing."""
    known = set(experiment.sequence)
    if not stages:
        yield f"{' and '.join(ordering)} leaves no stage"
        return
    numbers = [stage.index for stage in stages]
    if sorted(set(numbers)) != numbers or numbers[0] < 1:
        yield f"schedule: stages are numbered {numbers}, which does not rise from 1 on"
    for stage in stages:
        if not stage.tasks or not known.issuperset(stage.tasks):
            yield f"schedule: stage {stage.index}: its tasks are none of the config's"
        if len(stage.limits) != len(stage.tasks) or len(set(stage.tasks)) != len(stage.tasks):
            yield f"schedule: stage {stage.index}: one of `limits` for each of `tasks`, each once"
        if stage.start not in ("previous", "base"):
            yield f"schedule: stage {stage.index}: starts from '{stage.start}'"
        if len(stage.scoring) > 1:
            both = " and ".join(stage.scoring)
            yield f"compose: {both} both say which model is scored; only one part may"
    if all(stage.start == "base" for stage in stages):
        parts = dict.fromkeys(part.method for stage in stages for part in stage.parts)
        # `Stage.weights` reaches those of every stage; all else comes with the model.
        idle = [method.name for method in parts if set(kept_by([method])) - {"weights"}]
        for name in (name for name in idle if name not in ordering):
            yield (
                f"compose: {name} is about earlier stages, and with {' and '.join(ordering)} no "
                "stage goes on from another: leave one of them out"
            )


def scored(experiment: Experiment, stages: Sequence[StageSpec], position: int) -> Scored:
    """What `eval:` asks for after a stage and inside it.

    A stage counts as the last one where no other goes on from its model: with `single` every one.
    """
    evaluation, columns = experiment.config.eval, experiment.columns
    trace, within, stage = evaluation.trace, evaluation.within_stage, stages[position]
    last = position + 1 == len(stages) or stages[position + 1].start == "base"
    of_model = set(learned(stages, position))
    known = [name for name in columns if name in of_model]
    chosen: Sequence[str] = known
    if trace.after == "never" or (trace.after == "last" and not last):
        chosen = []
    elif trace.cells == "all":
        chosen = columns
    elif trace.cells == "last+diagonal" and not last:
        chosen = [name for name in known if name in stage.tasks]
    inside: Sequence[str] = []
    if within is not None:
        inside = known if within.tasks is None else [canonical_name(name) for name in within.tasks]
    after = evaluation.general.after
    under_op = set(seen(stages, position, columns))
    return Scored(
        columns=tuple(chosen),
        seen=tuple(name for name in columns if name in under_op),
        general=after == "every" or (after == "last" and last),
        inside=tuple(inside),
    )
