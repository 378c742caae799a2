"""The figure of divergence on the new task against what General lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cl_bench.report.figures import FIXED
from cl_bench.report.kl_forgetting import Point


def draw_kl(points: Sequence[Point], file: Path) -> None:
    """Write the file, and beside it the same as .svg: a colour for each method, numbers for stages.

    Error bars are one standard error over documents.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(FIXED):
        figure, panel = pyplot.subplots(figsize=(6, 4.2), layout="constrained")
        panel.axhline(0.0, color="grey", linewidth=0.8)
        for method in dict.fromkeys(point.method for point in points):
            own = [point for point in points if point.method == method]
            panel.errorbar(
                [point.kl for point in own],
                [100 * point.general_loss for point in own],
                [100 * (point.general_loss_stderr or 0.0) for point in own],
                [point.kl_stderr or 0.0 for point in own],
                label=method,
                linestyle="none",
                marker="o",
                elinewidth=0.6,
            )
            for point in own:
                panel.annotate(
                    str(point.stage),
                    (point.kl, 100 * point.general_loss),
                    xytext=(3, 3),
                    textcoords="offset points",
                    fontsize="x-small",
                )
        panel.set(
            xlabel="KL(base to model) on the new task, nats per token",
            ylabel="loss of General, points",
        )
        panel.legend(fontsize="small")
        figure.savefig(file, dpi=150, metadata={"Software": None})
        figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})
        pyplot.close(figure)
