"""Before the start: every task that is scored has a metric that can be its score."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cl_bench.evaluation.headline import headline_faults, headline_notes

if TYPE_CHECKING:
    from cl_bench.checks.found import Preflight


def score_faults(found: Preflight) -> Iterator[str]:
    """Tasks without a score; where there are none, says what was decided for the user."""
    tasks = list(found.suite.scored.values())
    faults = list(headline_faults(tasks))
    yield from faults
    if not faults:
        for note in headline_notes(tasks):
            found.note(note)
