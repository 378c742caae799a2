"""Text of `cl-bench inspect`: what stages trained, how alike they are, how far weights moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cl_bench.report.cells import short
from cl_bench.report.tables import Column, table
from cl_bench.results.selections import (
    Alike,
    Selections,
    kinds_of,
    masks_alike,
    pairs,
    scored_kinds,
    scores_alike,
    shares,
)
from cl_bench.results.weight_changes import forgotten, run_changes
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import RunFolder

_ALIKE = """
Jaccard index of what both stages trained, and in brackets that of sets of the same sizes drawn
blindly. Scores: cosine, in brackets that of the same scores in any order, and rank correlation
(0 by chance). Means over parameters, by their units.
"""
_MOVED = """
How far a layer moved, over its size, since the stage began: Frobenius norms over all of its
parameters. forgotten: points by which the mean of the tasks before fell; General likewise.
"""


def inspection_lines(run: RunFolder, selections: Mapping[str, Selections]) -> Iterator[str]:
    """Everything about one run; `selections` are those of its stages."""
    yield f"# {run.path.parent.name}, {run.path.name.replace('-', ' ')}"
    yield ""
    if selections:
        yield from _shares(selections, 0, "layer")
        yield from _shares(selections, 1, "module")
        yield from _alike(selections)
    else:
        yield (
            "No stage kept a selection (selection.safetensors): the method restricts nothing, or "
            "adapters were trained, or the run is of an older version."
        )
        yield ""
    yield from _moved(run)


def label(stage: str) -> str:
    """`1 cstance` for `stage-1-trace_cstance`."""
    _, number, task = stage.split("-", 2)
    return f"{number} {short(task)}"


def _shares(selections: Mapping[str, Selections], by: int, what: str) -> Iterator[str]:
    """Trained share of entries; a row for each layer or module type, a column for each stage."""
    found = {stage: shares(kept, by) for stage, kept in selections.items()}
    places = list(dict.fromkeys(place for each in found.values() for place in each))
    yield f"## Share of entries trained, by {what}"
    yield ""
    columns = [Column(what, "left"), *(Column(label(stage)) for stage in found)]
    rows = [
        [place, *(f"{100 * each[place]:.1f}" if place in each else "-" for each in found.values())]
        for place in places
    ]
    yield from table(columns, rows)
    yield ""


def _alike(selections: Mapping[str, Selections]) -> Iterator[str]:
    if len(selections) < 2:
        return
    masks, scored = kinds_of(selections.values()), scored_kinds(selections.values())
    yield "## Likeness of stages"
    yield ""
    yield from _ALIKE.strip().splitlines()
    yield ""
    columns = [
        Column("stages", "left"),
        *(Column(f"{kind} trained") for kind in masks),
        *(Column(f"scores of {kind}") for kind in scored),
    ]
    rows = []
    for one, other in pairs(selections):
        a, b = selections[one], selections[other]
        rows.append(
            [
                f"{label(one)} - {label(other)}",
                *(alike_text(masks_alike(a, b, kind)) for kind in masks),
                *(alike_text(scores_alike(a, b, kind)) for kind in scored),
            ]
        )
    yield from table(columns, rows)
    yield ""


def alike_text(found: Alike) -> str:
    """`0.62 (0.18)`, with the rank correlation behind it for scores; `-` for nothing."""
    if found.value is None or found.chance is None:
        return "-"
    ranks = "" if found.ranks is None else f", {found.ranks:+.2f}"
    return f"{found.value:.2f} ({found.chance:.2f}){ranks}"


def _moved(run: RunFolder) -> Iterator[str]:
    moved, missing = run_changes(run, read_run(run.path / "run.json")["config"])
    if moved:
        yield "## How far weights moved"
        yield ""
        yield from _MOVED.strip().splitlines()
        yield ""
        lost = forgotten(run)
        layers = list(dict.fromkeys(layer for each in moved.values() for layer in each))
        columns = [Column("layer", "left"), *(Column(label(stage)) for stage in moved)]
        rows = [
            [layer, *(f"{each[layer]:.2e}" if layer in each else "-" for each in moved.values())]
            for layer in layers
        ]
        for position, what in enumerate(("forgotten", "General forgotten")):
            values = [lost.get(stage, (None, None))[position] for stage in moved]
            rows.append([what, *("-" if v is None else f"{100 * v:+.1f}" for v in values)])
        yield from table(columns, rows)
        yield ""
    for line in missing:
        yield f"weights not compared: {line}"
