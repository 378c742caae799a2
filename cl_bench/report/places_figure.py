"""The figure of `cl-bench plot --places`: where in the model each stage trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from cl_bench.report.figures import FIXED
from cl_bench.report.inspection import label
from cl_bench.results.selections import Selections, place_of

Share = dict[tuple[str, str], float]


def shares_by_place(selections: Selections) -> Share:
    """The trained share of the entries, 0-1, of every (layer, module type) in layers."""
    trained: dict[tuple[str, str], int] = defaultdict(int)
    entries: dict[tuple[str, str], int] = defaultdict(int)
    for name, kept in selections.items():
        layer, module = place_of(name)
        if layer:
            trained[layer, module] += kept.trained
            entries[layer, module] += kept.entries
    return {place: trained[place] / max(entries[place], 1) for place in entries}


def draw_places(runs: Sequence[tuple[str, Mapping[str, Selections]]], file: Path) -> None:
    """A row of panels for each run, one for each stage: layers over module types."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    width = max(len(kept) for _, kept in runs)
    size = (1 + 3.4 * width, 4.2 * len(runs))
    with matplotlib.rc_context(FIXED):
        figure, axes = pyplot.subplots(
            len(runs), width, figsize=size, squeeze=False, layout="constrained"
        )
        for row, (name, kept) in zip(axes, runs, strict=True):
            for panel in row[len(kept) :]:
                panel.set_axis_off()
            for panel, (stage, selections) in zip(row, kept.items(), strict=False):
                found = shares_by_place(selections)
                layers = sorted({layer for layer, _ in found}, key=lambda n: (len(n), n))
                modules = list(dict.fromkeys(module for _, module in found))
                nan = float("nan")
                shown = [[found.get((layer, one), nan) for one in modules] for layer in layers]
                image = panel.imshow(shown, vmin=0, vmax=1, aspect="auto", origin="lower")
                panel.set_title(f"{name}: {label(stage)}", fontsize="small")
                panel.set_xticks(range(len(modules)), modules, rotation=90, fontsize="x-small")
                panel.set_yticks(range(len(layers)), layers, fontsize="x-small")
                panel.set_ylabel("layer")
                figure.colorbar(image, ax=panel)
        metadata = {"Software": None} if file.suffix.lower() == ".png" else {"Date": None}
        figure.savefig(file, metadata=None if file.suffix.lower() == ".pdf" else metadata)
        pyplot.close(figure)
