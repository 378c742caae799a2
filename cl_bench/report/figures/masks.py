"""The figure of what stages trained: how alike their masks and scores are, as `inspect` has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cl_bench.report.figures.source import Source
from cl_bench.store.folders import RunFolder, sha256_file, there

MOST = 4
"""Methods, a row each."""
LARGEST = 64 << 20
"""Bytes of a run's selections; `report` draws no larger ones by itself, which take minutes."""


@dataclass(frozen=True)
class Kept:
    """A run with selections of two or more stages, and their checksums."""

    label: str
    run: RunFolder
    files: Sequence[str]

    def __repr__(self) -> str:
        return f"Kept({self.label!r}, {self.files})"


def find(source: Source) -> list[Kept] | None:
    """Of the first seed of each method. None where no run has two stages to compare."""
    return find_all(source, largest=LARGEST)


def find_all(source: Source, fewest: int = 2, largest: int | None = None) -> list[Kept] | None:
    """Runs in which so many stages kept a selection; however large they are by default."""
    found: list[Kept] = []
    for label, run in source.first_runs():
        files = [
            stage.selection_file
            for stage in run.stages()
            if source.read(partial(there, stage.selection_file))
        ]
        size = sum(file.stat().st_size for file in files)
        if len(files) >= fewest and (largest is None or size <= largest) and len(found) < MOST:
            found.append(Kept(label, run, [sha256_file(file) for file in files]))
    return found or None


def draw(data: Sequence[Kept]) -> Any:
    """A row of heat maps for each run. Raises RunError where a selection is damaged."""
    from cl_bench.report.figures.inspection import draw_panels, likeness_panels
    from cl_bench.results.selections import selections_of  # loads torch

    runs = [(one.label, likeness_panels(selections_of(one.run))) for one in data]
    return draw_panels([(label, panels) for label, panels in runs if panels])
