"""Text of `cl-bench inspect`: what stages trained, how alike they are, how far weights moved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cl_bench.report.cells import short
from cl_bench.report.tables import Column, table
from cl_bench.results.selections import (
    Alike,
    Halves,
    Selections,
    ceiling,
    halves_alike,
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
(0 by chance; of: the most that scores so reliable can be expected to have, the root of the product
of both reliabilities). Means over parameters, by their units.
"""
_HALVES = """
Two random halves of a stage's examples. Trained: Jaccard index of what either half would choose, as
many of each weight as the stage did, and in brackets that of chance; all examples choose more
alike. Scores: rank correlation of both halves, and the reliability of scores of all examples that
follows from it (Spearman and Brown, 2r / (1 + r)).
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
        if kinds_of(selections.values()) or _frozen(selections.values()):
            yield from _shares(selections, 0, "layer")
            yield from _shares(selections, 1, "module")
        yield from _with_itself(selections)
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
    own = {k: {s: halves_alike(kept, k) for s, kept in selections.items()} for k in scored}
    rows = []
    for one, other in pairs(selections):
        a, b = selections[one], selections[other]
        rows.append(
            [
                f"{label(one)} - {label(other)}",
                *(alike_text(masks_alike(a, b, kind)) for kind in masks),
                *(
                    alike_text(scores_alike(a, b, kind), ceiling(own[kind][one], own[kind][other]))
                    for kind in scored
                ),
            ]
        )
    yield from table(columns, rows)
    yield ""


def _with_itself(selections: Mapping[str, Selections]) -> Iterator[str]:
    """What is needed to read likeness: how far a stage agrees with itself."""
    found = {
        kind: {stage: halves_alike(kept, kind) for stage, kept in selections.items()}
        for kind in ("rows", "columns", "entries")
    }
    masks = [
        k for k, own in found.items() if any(one.masks.value is not None for one in own.values())
    ]
    scored = [k for k, own in found.items() if any(one.ranks is not None for one in own.values())]
    if not scored:
        return
    yield "## Likeness of a stage to itself"
    yield ""
    yield from _HALVES.strip().splitlines()
    yield ""
    columns = [
        Column("stage", "left"),
        *(Column(f"{kind} trained") for kind in masks),
        *(Column(f"scores of {kind}") for kind in scored),
    ]
    rows = [
        [
            label(stage),
            *(alike_text(found[kind][stage].masks) for kind in masks),
            *(_reliability_text(found[kind][stage]) for kind in scored),
        ]
        for stage in selections
    ]
    yield from table(columns, rows)
    yield ""


def _reliability_text(own: Halves) -> str:
    """`+0.91, +0.95`: of halves, of all examples."""
    if own.ranks is None or own.reliability is None:
        return "-"
    return f"{own.ranks:+.2f}, {own.reliability:+.2f}"


def _frozen(stages: Iterable[Selections]) -> bool:
    return any(kept.kind == "frozen" for stage in stages for kept in stage.values())


def alike_text(found: Alike, most: float | None = None) -> str:
    """`0.62 (0.18)`, with the rank correlation behind it for scores and the most that it can be;
    `-` for nothing.
    """
    if found.value is None or found.chance is None:
        return "-"
    ranks = "" if found.ranks is None else f", {found.ranks:+.2f}"
    of = "" if most is None or not ranks else f" of {most:+.2f}"
    return f"{found.value:.2f} ({found.chance:.2f}){ranks}{of}"


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
