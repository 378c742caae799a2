"""The figure of scores inside the stages, a panel for each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cl_bench.report.cells import short
from cl_bench.report.curves import RunCurve, load_curves
from cl_bench.report.figures.source import Source
from cl_bench.report.figures.style import Look, border, empty, legend, looks, note, plain, sheet

COLUMNS = 3
ABOUT = "Thin lines begin a stage. Bars: one standard error over documents; first seeds."


@dataclass(frozen=True)
class Curves:
    """Of the first seed of every method that is shown."""

    found: Sequence[RunCurve]
    left_out: str


def find(source: Source) -> Curves | None:
    """None where nothing was scored inside a stage."""
    found: list[RunCurve] = []
    for method in source.shown():
        one = method.result.only(method.result.runs[:1])
        found += source.read(partial(load_curves, [one])) or []
    return Curves(found, source.left_out()) if found else None


def draw(data: Curves) -> Any:
    """Learning is the rise in a task's own stage, forgetting the fall after it."""
    tasks = list(dict.fromkeys(task for curve in data.found for task in curve.tasks))
    columns = min(COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, panels = sheet("Inside the stages", rows, columns, (3.4, 2.4))
    styles = looks([curve.name for curve in data.found])
    drawn: dict[str, Any] = {}
    for panel, task in zip(panels.flat, tasks, strict=False):
        for curve in data.found:
            drawn[curve.name] = _line(panel, curve, task, styles[curve.name])
        panel.set(xlabel="update", ylabel="%")
        panel.set_title(plain(short(task)))
        if panel is not panels.flat[0]:
            panel.sharex(panels.flat[0])
        for place in _borders(data.found[0])[1:]:
            border(panel, place)
    empty(list(panels.flat)[len(tasks) :])
    legend(figure, drawn)
    note(figure, ABOUT + data.left_out)
    return figure


def _line(panel: Any, curve: RunCurve, task: str, look: Look) -> Any:
    """One run's; points at which the task was not measured leave a gap."""
    steps: list[float] = []
    scores: list[float] = []
    errors: list[float] = []
    for begin, (_, _, points) in zip(_borders(curve), curve.stages, strict=True):
        for point in points:
            entry = (point["trace"] | point["general"]).get(task)
            steps.append(begin + point["step"])
            missing = entry is None or entry["score"] is None
            scores.append(float("nan") if missing else 100 * entry["score"])
            errors.append(0.0 if entry is None else 100 * (entry["stderr"] or 0.0))
    return panel.errorbar(steps, scores, errors, **look.line())


def _borders(curve: RunCurve) -> list[int]:
    """The number of updates before each stage."""
    begins = [0]
    for _, _, points in curve.stages:
        begins.append(begins[-1] + points[-1]["step"])
    return begins[:-1]
