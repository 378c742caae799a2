"""Tasks that methods' options name: they must be tasks of the config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cl_bench.data.tasks import canonical_name
from cl_bench.errors import nearest

if TYPE_CHECKING:
    from cl_bench.checks.found import Preflight


def task_faults(found: Preflight) -> Iterator[str]:
    """Options `task:` that `Stage.task_examples` would not know."""
    suite, general = found.suite, found.config.eval.general.tasks
    known = {*suite.stage_tasks, *general, *suite.general, *suite.leaves}
    for run in {run.label: run for run in found.runs}.values():
        for part in (part for stage in run.stages for part in stage.parts):
            task = getattr(part.options, "task", None)
            if isinstance(task, str) and not known & {task, canonical_name(task)}:
                yield f"methods: {run.label}: task: {task}: no task of this config" + nearest(
                    task, known
                )
