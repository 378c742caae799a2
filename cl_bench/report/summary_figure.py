"""The figure of `cl-bench plot`: means as tasks are added, and General over OP at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from cl_bench.report.figures import FIXED
from cl_bench.results.methods import MethodResult
from cl_bench.scores.matrix import Summary, op_at, op_final


class Point(NamedTuple):
    """A value of several seeds in percent: their mean, and half of an interval around it."""

    value: float
    error: float


def draw_summary(base: Summary, results: Sequence[MethodResult], file: Path) -> None:
    """OP and General after every stage, a line a method; then General over OP after the last one.

    Bars are one standard error over documents, of several seeds one standard deviation over them.
    In the third panel a method is worth its complexity where it lies to the right of and above
    plain fine-tuning with other rates. What is not measured is left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(FIXED):
        figure, (op, general, front) = pyplot.subplots(
            1, 3, figsize=(15, 4.2), layout="constrained"
        )
        colours = {result.label: f"C{i % 10}" for i, result in enumerate(results)}
        for result in results:
            if result.setting == "sequential":
                _line(op, result.label, dict(_op(result)), colours[result.label])
                _line(general, result.label, dict(_general(result)), colours[result.label])
        _level(general, _percent([base.general_final().mean.to_json()]))
        for label, x, y in _ends(base, results):
            colour = colours.get(label, "grey")
            front.errorbar(x.value, y.value, y.error, x.error, color=colour, marker="o", capsize=2)
            front.annotate(label, (x.value, y.value), (4, 4), textcoords="offset points")
        op.set(title="OP, the mean over tasks so far", xlabel="stage", ylabel="%")
        general.set(title="General", xlabel="stage", ylabel="%")
        front.set(title="After the last stage", xlabel="OP final, %", ylabel="General, %")
        for panel in (op, general):
            panel.xaxis.get_major_locator().set_params(integer=True)
        if op.get_legend_handles_labels()[0]:
            op.legend(fontsize="small")
        metadata = {"Software": None} if file.suffix.lower() == ".png" else {"Date": None}
        figure.savefig(file, metadata=None if file.suffix.lower() == ".pdf" else metadata)
        pyplot.close(figure)


def _op(result: MethodResult) -> Iterator[tuple[int, Point]]:
    """By stage, where every seed has it."""
    rows = min(len(summary.matrix.rows) for summary in result.summaries)
    for stage in range(1, rows + 1):
        point = _percent([op_at(one.matrix, stage).to_json() for one in result.summaries])
        if point is not None:
            yield stage, point


def _general(result: MethodResult) -> Iterator[tuple[int, Point]]:
    for i in range(min(len(summary.general) for summary in result.summaries)):
        point = _percent([one.general[i].mean.to_json() for one in result.summaries])
        if point is not None:
            yield i + 1, point


def _ends(base: Summary, results: Sequence[MethodResult]) -> Iterator[tuple[str, Point, Point]]:
    """Label, OP final and General of the base model and every finished method that has both."""
    rows = [("ori", [base]), *((r.label, list(r.summaries)) for r in results if r.complete)]
    for label, summaries in rows:
        x = _percent([op_final(one.matrix).to_json() for one in summaries])
        y = _percent([one.general_final().mean.to_json() for one in summaries])
        if x is not None and y is not None:
            yield label, x, y


def _percent(measures: Sequence[dict[str, Any]]) -> Point | None:
    """As `tables.percentages` has it; None where a seed is not measured."""
    values = [measure["value"] for measure in measures]
    if not values or any(value is None for value in values):
        return None
    error = stdev(values) if len(values) > 1 else measures[0]["stderr"] or 0.0
    return Point(100 * fmean(values), 100 * error)


def _line(panel: Any, label: str, points: dict[int, Point], colour: str) -> None:
    if points:
        values = [point.value for point in points.values()]
        errors = [point.error for point in points.values()]
        stages = list(points)
        panel.errorbar(stages, values, errors, color=colour, label=label, marker=".", capsize=2)


def _level(panel: Any, base: Point | None) -> None:
    if base is not None:
        panel.axhline(base.value, color="grey", linestyle="--", linewidth=0.8)
