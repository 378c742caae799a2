"""Stages from files: what was recognised is said, what is odd about them is in the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cl_bench.checks.found import Preflight


def note_own_data(found: Preflight) -> Iterator[str]:
    """No faults."""
    for own in found.suite.own.values():
        found.say(own.fact)
        for line in own.oddities:
            found.note(line)
    return iter(())
