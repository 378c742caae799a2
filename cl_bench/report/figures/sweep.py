"""The figure of one number of a method: OP, forgetting and General over alpha, lr, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median
from typing import Any

from cl_bench.report.figures.source import Estimate, Source, percent_of
from cl_bench.report.figures.style import empty, legend, looks, note, plain, sheet
from cl_bench.results.sweeps import Sweep, sweeps
from cl_bench.scores.matrix import Summary, average_forgetting, op_final

MOST = 4
"""Options, a row each."""
BARS = "Bars: 95 % intervals over seeds, over documents where there is one."
TICKS = 7
Line = Sequence[tuple[float, Estimate]]
MEASURES = {
    "OP final, %": lambda one: op_final(one.matrix).to_json(),
    "forgotten, points": lambda one: average_forgetting(one.matrix).to_json(),
    "General, %": lambda one: one.general_final().mean.to_json(),
}


@dataclass(frozen=True)
class Option:
    """One that is varied: by measure and method what was scored at each value."""

    name: str
    lines: Mapping[str, Mapping[str, Line]]


@dataclass(frozen=True)
class Options:
    """All of them."""

    found: Sequence[Option]
    note: str


def find(source: Source) -> Options | None:
    """None where no two finished methods differ in one number alone."""
    done = {m.label: m.result for m in source.found.methods if m.result.complete}
    found: dict[str, list[tuple[str, Sweep]]] = {}
    for sweep in sweeps(list(done.items())):
        many = found.setdefault(sweep.option, [])
        many.append((_name(sweep, [name for name, _ in many]), sweep))
    options = []
    for name, own in found.items():
        lines: dict[str, dict[str, Line]] = {}
        for measure, of in MEASURES.items():
            for label, sweep in own:
                line = [
                    (value, estimate)
                    for value, member in sweep.labels.items()
                    if (estimate := _estimate(done[member].summaries, of))
                ]
                if line:
                    lines.setdefault(measure, {})[label] = line
        if lines:
            options.append(Option(name, lines))
    more = f" {MOST} of {len(options)} options." if len(options) > MOST else ""
    return Options(options[:MOST], BARS + more) if options else None


def _name(sweep: Sweep, taken: Sequence[str]) -> str:
    """The method's, with the first of its labels where another line has that name."""
    first = next(iter(sweep.labels.values()))
    return sweep.method if sweep.method not in taken else f"{sweep.method} ({first}, …)"


def _estimate(summaries: Sequence[Summary], of: Any) -> Estimate | None:
    return percent_of([of(one) for one in summaries], interval=True)


def draw(data: Options) -> Any:
    """A row for each option, a panel for each measure, a line for each method."""
    figure, panels = sheet("One number varied", len(data.found), len(MEASURES), (2.9, 2.7))
    labels = [label for one in data.found for lines in one.lines.values() for label in lines]
    styles = looks(list(dict.fromkeys(labels)))
    drawn: dict[str, Any] = {}
    for row, one in zip(panels, data.found, strict=True):
        for panel, measure in zip(row, MEASURES, strict=True):
            lines = one.lines.get(measure, {})
            if not lines:
                empty([panel])
            for label, line in lines.items():
                values = [estimate.value for _, estimate in line]
                errors = [estimate.error for _, estimate in line]
                drawn[label] = panel.errorbar(
                    [x for x, _ in line], values, errors, **styles[label].line()
                )
            _scale(panel, sorted({x for line in lines.values() for x, _ in line}))
            panel.set(xlabel=plain(one.name), ylabel=measure)
    legend(figure, drawn)
    note(figure, data.note)
    return figure


def _scale(panel: Any, values: Sequence[float]) -> None:
    """With the values themselves as ticks, up to TICKS of them.

    Logarithmic where that spreads them more evenly: where the value in the middle is nearer to the
    geometric mean of both ends than to their mean.
    """
    if values and values[0] > 0:
        middle, ends = median(values), (values[0], values[-1])
        if abs(middle - sqrt(ends[0] * ends[1])) < abs(middle - sum(ends) / 2):
            panel.set_xscale("log")
    shown = values[:: -(-len(values) // TICKS)]
    panel.set_xticks(shown, [f"{value:g}" for value in shown])
    panel.tick_params(axis="x", which="minor", length=0, labelbottom=False)
