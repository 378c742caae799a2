"""Stages from files: what was recognised is said, what is odd about them is in the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cl_bench.checks.found import Preflight


def note_own_data(found: Preflight) -> Iterator[str]:
    """No faults."""
    made = found.suite.own
    for own in made.values():
        found.say(own.fact)
        for line in own.oddities:
            found.note(line)
    for name, own in made.items():
        for other, its in made.items():
            both = sum(prompt in its.learned for prompt in own.asked)
            if other != name and both:
                found.note(
                    f"{name}: {both:,} of {len(own.asked):,} scored prompts are trained on in "
                    f"{other}"
                )
    return iter(())
