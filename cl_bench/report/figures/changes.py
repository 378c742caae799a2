"""The figure of documents that were forgotten and learned, for every benchmark of General."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cl_bench.report.cells import short
from cl_bench.report.figures.source import Source
from cl_bench.report.figures.style import GAINED, HATCH, LOST, empty, legend, note, plain, sheet

MOST = 4
"""Methods."""
ABOUT = (
    "Documents that score less or more than the base model's after the last stage, in percent of "
    "the benchmark's; numbers are documents."
)


@dataclass(frozen=True)
class Bar:
    """A benchmark: its documents, and how many have a lower or a higher score, means over seeds."""

    benchmark: str
    n: int
    forgotten: float
    learned: float


@dataclass(frozen=True)
class Bars:
    """By method."""

    found: Sequence[tuple[str, Sequence[Bar]]]
    left_out: str


def find(source: Source) -> Bars | None:
    """None where the records of single documents are not there."""
    found = []
    for method in source.shown(MOST):
        bars = [
            Bar(short(change.benchmark), change.n, *change.documents)
            for change in method.changes
            if change.documents is not None and change.benchmark in source.found.benchmarks
        ]
        found += [(method.label, bars)] if bars else []
    return Bars(found, source.left_out(MOST)) if found else None


def draw(data: Bars) -> Any:
    """A panel for each method: forgotten to the left and hatched, learned to the right."""
    columns = min(4, len(data.found))
    rows = -(-len(data.found) // columns)
    most = max(len(bars) for _, bars in data.found)
    size = (2.5, 0.9 + 0.3 * most)
    figure, panels = sheet("Forgotten and learned", rows, columns, size)
    end = max(
        100 * max(b.forgotten, b.learned) / max(b.n, 1) for _, bars in data.found for b in bars
    )
    drawn: dict[str, Any] = {}
    for panel, (label, bars) in zip(panels.flat, data.found, strict=False):
        places = range(len(bars))
        looks = {"height": 0.7, "edgecolor": "white", "linewidth": 0.5}
        lost = [-100 * bar.forgotten / max(bar.n, 1) for bar in bars]
        gained = [100 * bar.learned / max(bar.n, 1) for bar in bars]
        drawn["forgotten"] = panel.barh(places, lost, color=LOST, hatch=HATCH, **looks)
        drawn["learned"] = panel.barh(places, gained, color=GAINED, **looks)
        for place, bar in enumerate(bars):
            for value, count, side in ((lost, bar.forgotten, -1), (gained, bar.learned, 1)):
                panel.annotate(
                    f"{count:.0f}" if count == int(count) else f"{count:.1f}",
                    (value[place], place),
                    xytext=(3 * side, 0),
                    textcoords="offset points",
                    ha="right" if side < 0 else "left",
                    va="center",
                    fontsize=7,
                )
        panel.set_yticks(places, [plain(bar.benchmark) for bar in bars])
        panel.set_xlim(-1.5 * max(end, 1), 1.5 * max(end, 1))
        panel.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        panel.axvline(0, color="#444444", linewidth=0.8)
        panel.invert_yaxis()
        panel.grid(axis="y", visible=False)
        panel.set_xlabel("% of documents")
        panel.set_title(plain(label))
    empty(list(panels.flat)[len(data.found) :])
    legend(figure, drawn)
    note(figure, ABOUT + data.left_out)
    return figure
