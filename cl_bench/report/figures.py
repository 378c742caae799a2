"""Figures of an experiment, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl_bench.report.cells import short
from cl_bench.report.curves import RunCurve

COLUMNS = 3
FIXED = {"svg.hashsalt": "cl-bench", "svg.fonttype": "none"}
"""The same curves give the same bytes."""


def draw_curves(curves: Sequence[RunCurve], folder: Path) -> Path:
    """Write `curves.png` and `curves.svg`; returns the first.

    A panel for each task: score in percent with one standard error over the updates of all stages,
    a line for each run. Learning is the rise in a task's own stage, forgetting the fall after it.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(task for curve in curves for task in curve.tasks))
    columns = min(COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    with matplotlib.rc_context(FIXED):
        size = (4 * columns, 2.8 * rows)
        figure, panels = pyplot.subplots(
            rows, columns, figsize=size, squeeze=False, sharex=True, layout="constrained"
        )
        for panel, task in zip(panels.flat, tasks, strict=False):
            for curve in curves:
                _draw(panel, curve, task)
            panel.set(title=short(task), xlabel="update", ylabel="score, %")
            for border in _borders(curves[0])[1:]:
                panel.axvline(border, color="grey", linestyle="--", linewidth=0.8)
        for panel in list(panels.flat)[len(tasks) :]:
            panel.set_visible(False)
        panels.flat[0].legend(fontsize="small")
        file = folder / "curves.png"
        figure.savefig(file, dpi=150)
        figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})
        pyplot.close(figure)
    return file


def _draw(panel: Any, curve: RunCurve, task: str) -> None:
    """One run's line; points at which the task was not measured leave a gap."""
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
    panel.errorbar(steps, scores, errors, label=curve.name, marker=".", linewidth=1.2, capsize=2)


def _borders(curve: RunCurve) -> list[int]:
    """The number of updates before each stage."""
    begins = [0]
    for _, _, points in curve.stages:
        begins.append(begins[-1] + points[-1]["step"])
    return begins[:-1]
