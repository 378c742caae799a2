"""The figure of `cl-bench inspect --plot`: heat maps of stages, a row of panels for each run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cl_bench.errors import UserError
from cl_bench.report.figures import FIXED
from cl_bench.report.inspection import label
from cl_bench.results.selections import (
    Selections,
    grid,
    halves_alike,
    kinds_of,
    masks_alike,
    pairs,
    scored_kinds,
    scores_alike,
)

Panel = tuple[str, Mapping[tuple[str, str], float | None]]


def check_figure(file: Path, option: str = "--plot") -> None:
    """Raises UserError for a file that no figure can be written to."""
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"{option} {file}: a figure ends in .png, .svg or .pdf")
    if not file.resolve().parent.is_dir():
        raise UserError(f"{option} {file}: {file.resolve().parent} is no folder")


def draw_likeness(runs: Sequence[tuple[str, Mapping[str, Selections]]], file: Path) -> None:
    """Likeness of every two stages: of masks by Jaccard index, of scores by rank correlation.

    On the diagonal that of a stage's halves: of their masks, and the reliability of its scores.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [(name, kept, list(_panels(kept))) for name, kept in runs]
    width = max(len(panels) for _, _, panels in drawn)
    with matplotlib.rc_context(FIXED):
        figure, axes = pyplot.subplots(
            len(drawn),
            width,
            figsize=(4 * width, 3.6 * len(drawn)),
            squeeze=False,
            layout="constrained",
        )
        for row, (name, kept, panels) in zip(axes, drawn, strict=True):
            for place in row[len(panels) :]:
                place.set_axis_off()
            for place, (title, values) in zip(row, panels, strict=False):
                names = [label(stage) for stage in kept]
                image = place.imshow(grid(values, list(kept)).numpy(), vmin=0, vmax=1)
                place.set_title(f"{name}: {title}")
                place.set_xticks(range(len(names)), names, rotation=90)
                place.set_yticks(range(len(names)), names)
                figure.colorbar(image, ax=place)
        metadata = {"Software": None} if file.suffix.lower() == ".png" else {"Date": None}
        figure.savefig(file, metadata=None if file.suffix.lower() == ".pdf" else metadata)
        pyplot.close(figure)


def _panels(kept: Mapping[str, Selections]) -> Iterator[Panel]:
    for kind in kinds_of(kept.values()):
        values = {(a, b): masks_alike(kept[a], kept[b], kind).value for a, b in pairs(kept)}
        values |= {(s, s): halves_alike(own, kind).masks.value for s, own in kept.items()}
        yield f"{kind} trained", values
    for kind in scored_kinds(kept.values()):
        ranks = {(a, b): scores_alike(kept[a], kept[b], kind).ranks for a, b in pairs(kept)}
        ranks |= {(s, s): halves_alike(own, kind).reliability for s, own in kept.items()}
        yield f"scores of {kind} (ranks)", ranks
