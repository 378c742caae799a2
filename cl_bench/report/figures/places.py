"""The figure of where in the model each stage trained: layers over module types."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cl_bench.report.figures.masks import Kept, find_all
from cl_bench.report.figures.source import Source
from cl_bench.report.figures.style import empty, heat, note, plain, sheet

if TYPE_CHECKING:
    from cl_bench.results.selections import Selections

Share = dict[tuple[str, str], float]


def find(source: Source) -> list[Kept] | None:
    """Runs that kept selections, of one stage or more."""
    return find_all(source, fewest=1)


def shares_by_place(selections: Selections) -> Share:
    """The trained share of the entries, 0-1, of every (layer, module type) in layers."""
    from cl_bench.results.selections import place_of

    trained: dict[tuple[str, str], int] = defaultdict(int)
    entries: dict[tuple[str, str], int] = defaultdict(int)
    for name, kept in selections.items():
        layer, module = place_of(name)
        if layer:
            trained[layer, module] += kept.trained
            entries[layer, module] += kept.entries
    return {place: trained[place] / max(entries[place], 1) for place in entries}


def draw(data: Sequence[Kept]) -> Any:
    """A row of panels for each run, one for each stage. Raises RunError for a damaged file."""
    from cl_bench.report.inspection import label
    from cl_bench.results.selections import selections_of  # loads torch

    runs = [(one.label, selections_of(one.run)) for one in data]
    width = max(len(kept) for _, kept in runs)
    figure, panels = sheet("Where stages trained", len(runs), width, (2.6, 3.6), 0.7)
    for row, (name, kept) in zip(panels, runs, strict=True):
        empty(row[len(kept) :])
        for panel, (stage, selections) in zip(row, kept.items(), strict=False):
            found = shares_by_place(selections)
            layers = sorted({layer for layer, _ in found}, key=lambda n: (len(n), n))
            modules = list(dict.fromkeys(module for _, module in found))
            shown = [[_percent(found.get((layer, one))) for one in modules] for layer in layers]
            few = len(layers) * len(modules) <= 100
            mesh = heat(panel, shown, layers, modules, (0.0, 100.0), 0 if few else None)
            panel.set_title(plain(f"{name}: {label(stage)}"))
            panel.set_ylabel("layer")
    figure.colorbar(mesh, ax=panels, label="% trained", shrink=0.8)
    note(figure, "Share of the entries of each weight that a stage trained; first seeds.")
    return figure


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
