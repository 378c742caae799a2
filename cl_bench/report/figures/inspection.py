"""The figure of `cl-bench inspect --plot`: a row of panels for each run.

Heat maps of what stages trained and of its scores; lines over layers where drift was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cl_bench.report.figures.style import empty, heat, looks, note, plain, sheet
from cl_bench.report.inspection import label
from cl_bench.results.selections import (
    Selections,
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
ABOUT = "Masks: Jaccard index. Scores: rank correlation. On the diagonal: two halves of a stage."


def draw_panels(runs: Sequence[tuple[str, Sequence[Panel]]]) -> Any:
    """A row of panels for each run; there must be one, and each must have some."""
    width = max(len(panels) for _, panels in runs)
    figure, axes = sheet("How alike stages are", len(runs), width, (3.4, 3.0), 0.0)
    for row, (name, panels) in zip(axes, runs, strict=True):
        empty(row[len(panels) :])
        for place, (title, draw) in zip(row, panels, strict=False):
            draw(place)
            place.set_title(f"{plain(name)}\n{title}")
    note(figure, ABOUT)
    return figure


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
        found = {(a, b): masks_alike(kept[a], kept[b], kind) for a, b in pairs(kept)}
        chances = [one.chance for one in found.values() if one.chance is not None]
        values = {pair: one.value for pair, one in found.items()}
        values |= {(s, s): halves_alike(own, kind).masks.value for s, own in kept.items()}
        chance = f", chance {fmean(chances):.2f}" if chances else ""
        yield f"{kind} trained{chance}", values
    for kind in scored_kinds(kept.values()):
        ranks = {(a, b): scores_alike(kept[a], kept[b], kind).ranks for a, b in pairs(kept)}
        ranks |= {(s, s): halves_alike(own, kind).reliability for s, own in kept.items()}
        yield f"scores of {kind} (ranks)", ranks


def _heat_map(
    values: Mapping[tuple[str, str], float | None], stages: list[str]
) -> Callable[[Any], None]:
    def draw(place: Any) -> None:
        names = [label(stage) for stage in stages]
        both = dict(values) | {(b, a): value for (a, b), value in values.items()}
        shown = [[both.get((one, other)) for other in stages] for one in stages]
        heat(place, shown, names, names, (0.0, 1.0), 2)

    return draw


def drift_panels(stages: Mapping[str, StageDrift], measures: Mapping[str, str]) -> list[Panel]:
    """A measure over layers, a line for each stage, from the base model."""
    return [(title, _lines(stages, measure)) for measure, title in measures.items()]


def _lines(stages: Mapping[str, StageDrift], measure: str) -> Callable[[Any], None]:
    def draw(place: Any) -> None:
        styles = looks([*stages])
        for stage, one in list(stages.items()):
            values = [getattr(layer, measure) for layer in one.from_base]
            look = styles[stage].line()
            look.pop("elinewidth")
            place.plot(range(len(values)), values, label=plain(label(stage)), **look)
        place.set_xlabel("layer")
        place.legend()

    return draw
