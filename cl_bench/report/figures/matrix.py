"""The figure of score matrices: every task after every stage, and General."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cl_bench.report.cells import short
from cl_bench.report.figures.source import Source
from cl_bench.report.figures.style import empty, heat, note, plain, sheet
from cl_bench.results.methods import MethodResult

MOST = 4
"""Methods."""
ABOUT = (
    "Scores in percent, means over seeds. Framed: where a task was taught. Hatched: not measured."
)
Values = Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Heat:
    """One method; rows are the base model and all stages, columns tasks and General."""

    label: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Values
    own: Sequence[tuple[int, int]]
    """Row and column of every task at the stages that teach it."""


@dataclass(frozen=True)
class Heats:
    """Of all methods that are shown."""

    found: Sequence[Heat]
    left_out: str


def find(source: Source) -> Heats | None:
    """None where nothing was scored after a stage."""
    general = source.group.first.base["general"].get("mean")
    found = [
        _heat(method.label, method.result, source.found.tasks, general)
        for method in source.shown(MOST)
        if any(method.result.done)
    ]
    return Heats(found, source.left_out(MOST)) if found else None


def _heat(label: str, result: MethodResult, tasks: Sequence[str], general: float | None) -> Heat:
    summaries = result.summaries
    base = summaries[0].matrix.base or {}
    first = [None if (cell := base.get(task)) is None else cell.score for task in tasks]
    values = [[*_shown(first), None if general is None else 100 * general]]
    names = ["base"]
    for i, taught in enumerate(result.sequence):
        cells = [[one.matrix.cell(i + 1, task) for one in summaries] for task in tasks]
        row = [_mean([None if cell is None else cell.score for cell in each]) for each in cells]
        means = [one.general[i].mean.value if i < len(one.general) else None for one in summaries]
        values.append(_shown([*row, _mean(means)]))
        names.append(f"{i + 1} {short(taught[0])}" if len(taught) == 1 else f"{i + 1} all")
    own = [
        (stage, place) for place, task in enumerate(tasks) for stage in result.visits.get(task, ())
    ]
    return Heat(label, names, [*map(short, tasks), "General"], values, own)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _shown(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else 100 * value for value in values]


def draw(data: Heats) -> Any:
    """A panel for each method."""
    from matplotlib.patches import Rectangle

    first = data.found[0]
    columns = min(2, len(data.found))
    rows = -(-len(data.found) // columns)
    size = (1.5 + 0.42 * len(first.columns), 0.9 + 0.26 * max(len(h.rows) for h in data.found))
    figure, panels = sheet("Scores after every stage", rows, columns, size, 0.7)
    for panel, one in zip(panels.flat, data.found, strict=False):
        mesh = heat(panel, one.values, one.rows, one.columns, (0.0, 100.0))
        for row, column in one.own:
            frame: dict[str, Any] = {
                "fill": False,
                "edgecolor": "#d55e00",
                "linewidth": 1.4,
                "zorder": 4,
            }
            panel.add_patch(Rectangle((column + 0.04, row + 0.05), 0.92, 0.9, **frame))
        panel.axvline(len(one.columns) - 1, color="white", linewidth=4, zorder=3)
        panel.set_title(plain(one.label))
    empty(list(panels.flat)[len(data.found) :])
    figure.colorbar(mesh, ax=panels, label="%", shrink=0.8)
    note(figure, ABOUT + data.left_out)
    return figure
