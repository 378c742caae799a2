"""The difference over all benchmarks of General together."""

from __future__ import annotations

from collections.abc import Sequence

from cl_bench.results.compare import TaskDiff
from cl_bench.results.places import Place
from cl_bench.scores.paired_changes import compare_tasks
from cl_bench.scores.uncertainty import mean

GENERAL = "General"


def pooled_general(first: Place, second: Place, diffs: Sequence[TaskDiff]) -> TaskDiff | None:
    """General over those of its benchmarks that are compared; None where there are fewer than two.

    Each benchmark weighs the same, and within it each member: the strata of one difference.
    """
    named = set(first.benchmarks()) & set(second.benchmarks())
    own = {diff.task: diff for diff in diffs if diff.task in named}
    if len(own) < 2:
        return None
    pairs = [pair for diff in own.values() for pair in diff.pairs]
    missing = [name for name, diff in own.items() if diff.comparison is None]
    graded = any(diff.graded for diff in own.values())
    if missing:
        why = f"{', '.join(missing)}: not measured"
        return TaskDiff(
            GENERAL, None, None, None, pairs, own, graded=graded, not_measured={"A or B": why}
        )
    return TaskDiff(
        GENERAL,
        mean([diff.before or 0.0 for diff in own.values()]),
        mean([diff.after or 0.0 for diff in own.values()]),
        compare_tasks({name: diff.strata for name, diff in own.items()}),
        pairs,
        own,
        graded=graded,
    )
