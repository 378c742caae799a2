"""The figure of divergence on the new task against what General lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cl_bench.report.figures.catalogue import FEWEST_POINTS
from cl_bench.report.figures.source import Source
from cl_bench.report.figures.style import GREY, legend, looks, note, sheet
from cl_bench.report.kl_forgetting import Point, kl_points

ABOUT = "A point is a stage, with its number. Bars: one standard error over documents."


@dataclass(frozen=True)
class Divergences:
    """Stages of the first seeds of all methods that are shown."""

    found: Sequence[Point]
    left_out: str


def find(source: Source) -> Divergences | None:
    """None where fewer than FEWEST_POINTS stages have both numbers."""
    found: list[Point] = []
    for method in source.shown():
        one = method.result.only(method.result.runs[:1])
        points = source.read(partial(kl_points, source.group.first.base, [one]))
        found += points[0] if points else []
    return Divergences(found, source.left_out()) if len(found) >= FEWEST_POINTS else None


def draw(data: Divergences) -> Any:
    """A marker for each method, numbers for stages."""
    figure, ((panel,),) = sheet("KL on the new task against the loss of General", 1, 1, (5.6, 3.8))
    panel.axhline(0.0, color=GREY, linewidth=0.8)
    labels = list(dict.fromkeys(point.method for point in data.found))
    drawn: dict[str, Any] = {}
    for label, look in looks(labels).items():
        own = [point for point in data.found if point.method == label]
        losses = [100 * point.general_loss for point in own]
        drawn[label] = panel.errorbar(
            [point.kl for point in own],
            losses,
            [100 * (point.general_loss_stderr or 0.0) for point in own],
            [point.kl_stderr or 0.0 for point in own],
            **look.mark(),
        )
        for point, loss in zip(own, losses, strict=True):
            where = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": 7}
            panel.annotate(str(point.stage), (point.kl, loss), **where)
    panel.set(
        xlabel="KL (base to model) on the new task, nats per token",
        ylabel="loss of General, points",
    )
    legend(figure, drawn)
    note(figure, ABOUT + data.left_out)
    return figure
