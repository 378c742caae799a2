"""`--until`: the stage after which a start ends; the next one goes on from there."""

from __future__ import annotations

from dataclasses import replace

from cl_bench.data.tasks import canonical_name
from cl_bench.errors import UserError, nearest
from cl_bench.methods.spec import Experiment


def stopped(experiment: Experiment, given: str | None) -> Experiment:
    """The experiment with its last stage for now, by number or by task.

    Raises UserError where there is no such stage, where the task has several, and for methods that
    train all stages at once.
    """
    if given is None:
        return experiment
    name, names = canonical_name(given), experiment.sequence
    numbers = [number for number, task in enumerate(names, 1) if task == name]
    if given.isdecimal() and given not in names:
        numbers = [int(given)] if 1 <= int(given) <= len(names) else []
    faults = []
    if not numbers:
        hint = nearest(given, [*names, *map(str, range(1, len(names) + 1))])
        faults.append(f"--until {given}: no stage of this config{hint}")
    if len(numbers) > 1:
        which = " and ".join(map(str, numbers))
        faults.append(f"--until {given}: stages {which} train it: give a number")
    faults += [
        f"--until {given}: {label} trains all stages at once: leave it out with --method"
        for label in dict.fromkeys(
            run.label
            for run in experiment.chosen
            if any(len(stage.tasks) > 1 for stage in run.stages)
        )
    ]
    if faults:
        raise UserError(faults)
    return replace(experiment, until=numbers[0])
