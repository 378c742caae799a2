"""What the numbers of an experiment would be made of now, and whether its folder is of the same.

Nothing here imports torch: an experiment that is finished is told without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_bench.checks.found import Examples
from cl_bench.data.examples import Example, training_examples
from cl_bench.errors import UserError
from cl_bench.evaluation.asked import Asked
from cl_bench.identity.bindings import Contents, contents
from cl_bench.identity.same import check_same
from cl_bench.methods.spec import Experiment
from cl_bench.store.links import check_links


def rows_to_train_on(experiment: Experiment, stage_tasks: Mapping[str, Any]) -> Examples:
    """The training examples of every stage, for every seed. Raises UserError with every fault."""
    faults: list[str] = []
    examples: dict[tuple[str, int | None, int], Sequence[Example]] = {}
    for name, limit in experiment.sets:
        for seed in experiment.config.seeds:
            try:
                examples[name, limit, seed] = training_examples(stage_tasks[name], limit, seed)
            except UserError as error:
                faults += error.faults
                break
    if faults:
        raise UserError(list(dict.fromkeys(faults)))
    return examples


def made_of(
    experiment: Experiment,
    asked: Asked,
    examples: Examples,
    model_path: str | Path,
    say: Callable[[str], None],
) -> Contents:
    """What the numbers of the runs would be made of, for `check_folder`."""
    known = {
        (task.name, seed): examples[task.name, experiment.limit_of(task.name), seed]
        for task in experiment.tasks
        for seed in experiment.config.seeds
    }
    return contents(asked, known, model_path, say)


def check_folder(
    experiment: Experiment, asked: Asked, examples: Examples, folder: Path, now: Contents
) -> list[str]:
    """Raises UserError when the experiment's folder holds results made of other things than `now`.

    Reads only. Returns lines about what cannot be compared.
    """

    def rows(task: str, limit: int | None, seed: int) -> Sequence[Example]:
        known = examples.get((task, limit, seed))
        return known or training_examples(asked.stage_tasks[task], limit, seed)

    check_links(folder)
    return check_same(folder, experiment, now, rows)
