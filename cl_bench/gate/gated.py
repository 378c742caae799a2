"""What comes of a gate, whoever scored the documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cl_bench.errors import UserError
from cl_bench.gate.verdicts import ALPHA, Finding, Sizes, Verdict, overall, watched
from cl_bench.scores.paired_changes import least_margin

Key = tuple[str, int]
"""Leaf task and document."""


@dataclass(frozen=True)
class Lost:
    """A document that scores less than before; scores 0-1."""

    key: Key
    before: float
    after: float


@dataclass(frozen=True)
class Gated:
    """Two models or stages, and what was found."""

    old: str
    new: str
    margin: float
    """The drop that is tolerated, 0-1."""
    findings: Sequence[Finding]
    lost: Mapping[str, Sequence[Lost]]
    """By capability."""
    gained: Mapping[str, int]
    """Documents that score more than before."""
    notes: Sequence[str] = field(default_factory=tuple)
    """What must be known beside the numbers."""

    @property
    def verdict(self) -> Verdict:
        """Of the whole."""
        return overall(self.findings)


def check_margin(
    rounds: Sequence[Mapping[str, Sizes]], graded: Mapping[str, bool], margin: float
) -> None:
    """Raises UserError for a margin that not even unchanged documents could show to be kept.

    Graded scores have no such limit: how much they scatter is not known before they are there.
    """
    if not 0 <= margin < 1:
        raise UserError(f"--margin {100 * margin:g}: points, from 0 to below 100")
    states, faults = watched(rounds), []
    for name, sizes in rounds[-1].items():
        least = least_margin(sizes, float(states[name].boundaries.critical(ALPHA)[-1]))
        if not graded[name] and margin < least:
            count = sum(sizes.values())
            faults.append(
                f"--margin {100 * margin:g}: {name}: {count} documents can show no margin below "
                f"{100 * least:.2f} points, even if not one of them changes: take more documents, "
                "a larger margin, or leave it out (--task)"
            )
    if faults:
        raise UserError(faults)
