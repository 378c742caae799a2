"""The figure of `cl-bench inspect --plot`: a row of panels for each run.

Heat maps of what stages trained and of its scores; lines over layers where drift was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from cl_bench.experiment.drift import StageDrift

Panel = tuple[str, Callable[[Any], None]]
"""A title, and what draws into the axes."""


def check_figure(file: Path, option: str = "--plot") -> None:
    """Raises UserError for a file that no figure can be written to."""
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"{option} {file}: a figure ends in .png, .svg or .pdf")
    if not file.resolve().parent.is_dir():
        raise UserError(f"{option} {file}: {file.resolve().parent} is no folder")


def draw_panels(runs: Sequence[tuple[str, Sequence[Panel]]], file: Path) -> None:
    """A row of panels for each run. Raises UserError where there is nothing to draw."""
    drawn = [(name, panels) for name, panels in runs if panels]
    if not drawn:
        raise UserError(f"--plot {file}: no run has two stages with a selection to compare")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    width = max(len(panels) for _, panels in drawn)
    with matplotlib.rc_context(FIXED):
        figure, axes = pyplot.subplots(
            len(drawn),
            width,
            figsize=(4 * width, 3.6 * len(drawn)),
            squeeze=False,
            layout="constrained",
        )
        for row, (name, panels) in zip(axes, drawn, strict=True):
            for place in row[len(panels) :]:
                place.set_axis_off()
            for place, (title, draw) in zip(row, panels, strict=False):
                draw(place)
                place.set_title(f"{name}\n{title}")
        metadata = {"Software": None} if file.suffix.lower() == ".png" else {"Date": None}
        figure.savefig(file, metadata=None if file.suffix.lower() == ".pdf" else metadata)
        pyplot.close(figure)


def likeness_panels(kept: Mapping[str, Selections]) -> list[Panel]:
    """Likeness of every two stages: of masks by Jaccard index, of scores by rank correlation.

    On the diagonal that of a stage's halves: of their masks, and the reliability of its scores.
    """
    return [(title, _heat_map(values, list(kept))) for title, values in _grids(kept)]


def _grids(
    kept: Mapping[str, Selections],
) -> Iterator[tuple[str, Mapping[tuple[str, str], float | None]]]:
    if len(kept) < 2:
        return
    for kind in kinds_of(kept.values()):
        values = {(a, b): masks_alike(kept[a], kept[b], kind).value for a, b in pairs(kept)}
        values |= {(s, s): halves_alike(own, kind).masks.value for s, own in kept.items()}
        yield f"{kind} trained", values
    for kind in scored_kinds(kept.values()):
        ranks = {(a, b): scores_alike(kept[a], kept[b], kind).ranks for a, b in pairs(kept)}
        ranks |= {(s, s): halves_alike(own, kind).reliability for s, own in kept.items()}
        yield f"scores of {kind} (ranks)", ranks


def _heat_map(
    values: Mapping[tuple[str, str], float | None], stages: list[str]
) -> Callable[[Any], None]:
    def draw(place: Any) -> None:
        names = [label(stage) for stage in stages]
        image = place.imshow(grid(values, stages).numpy(), vmin=0, vmax=1)
        place.set_xticks(range(len(names)), names, rotation=90)
        place.set_yticks(range(len(names)), names)
        place.figure.colorbar(image, ax=place)

    return draw


def drift_panels(stages: Mapping[str, StageDrift], measures: Mapping[str, str]) -> list[Panel]:
    """A measure over layers, a line for each stage, from the base model."""
    return [(title, _lines(stages, measure)) for measure, title in measures.items()]


def _lines(stages: Mapping[str, StageDrift], measure: str) -> Callable[[Any], None]:
    def draw(place: Any) -> None:
        for stage, one in stages.items():
            values = [getattr(layer, measure) for layer in one.from_base]
            place.plot(range(len(values)), values, label=label(stage))
        place.set_xlabel("layer")
        place.legend()

    return draw
