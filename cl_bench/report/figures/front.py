"""The figure of what methods learn against what they lose, and plain fine-tuning at other rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cl_bench.data.tasks import canonical_name
from cl_bench.report.figures.source import Estimate, Source, percent_of
from cl_bench.report.figures.style import GREY, legend, level, looks, note, plain, sheet
from cl_bench.results.standings import Standing
from cl_bench.results.summary import base_summary
from cl_bench.results.sweeps import sweeps
from cl_bench.scores.matrix import Summary, average_forgetting, learning_accuracy, op_final

PLAIN, RATE = "sft", "lr"
BARS = "Bars: 95 % intervals over seeds, over documents where there is one."
LINE = " Line: sft at other learning rates; worth its complexity is what lies above and right."
Place = tuple[Estimate, Estimate]
"""Across and up."""


@dataclass(frozen=True)
class Front:
    """Places of finished methods: OP final and General; learned and forgotten, where measured."""

    kept: Mapping[str, Place]
    forgotten: Mapping[str, Place]
    base: Place | None
    rates: Sequence[tuple[float, str]]
    """Labels of sft by learning rate, if there are several."""
    left_out: str


def find(source: Source) -> Front | None:
    """None where no finished method has the numbers of either panel."""
    rates = _rates(source)
    methods = [method for method in source.shown() if method.result.complete]
    names = {label for _, label in rates}
    methods += [m for m in source.found.methods if m.label in names and m not in methods]
    kept = {m.label: place for m in methods if (place := _place(m, _op, _general))}
    forgotten = {m.label: place for m in methods if (place := _place(m, _learned, _lost))}
    if not kept and not forgotten:
        return None
    first = source.group.first
    sequence = [canonical_name(stage["task"]) for stage in first.config["stages"]]
    base = base_summary(first.folder, source.found.tasks, sequence)
    ends = percent_of([_op(base)], True), percent_of([_general(base)], True)
    place = (ends[0], ends[1]) if ends[0] and ends[1] else None
    return Front(kept, forgotten, place, rates, source.left_out())


def _rates(source: Source) -> list[tuple[float, str]]:
    """Of the sweep of sft's learning rate with most values whose methods are finished."""
    done = [(m.label, m.result) for m in source.found.methods if m.result.complete]
    found = [s for s in sweeps(done) if s.method == PLAIN and s.option == RATE]
    best = max(found, key=lambda sweep: len(sweep.labels), default=None)
    return [] if best is None else list(best.labels.items())


def _place(
    method: Standing, across: Callable[[Summary], Any], up: Callable[[Summary], Any]
) -> Place | None:
    x, y = (percent_of([of(one) for one in method.result.summaries], True) for of in (across, up))
    return None if x is None or y is None else (x, y)


def _op(summary: Summary) -> Any:
    return op_final(summary.matrix).to_json()


def _general(summary: Summary) -> Any:
    return summary.general_final().mean.to_json()


def _learned(summary: Summary) -> Any:
    return learning_accuracy(summary.matrix).to_json()


def _lost(summary: Summary) -> Any:
    return average_forgetting(summary.matrix).to_json()


def draw(data: Front) -> Any:
    """A panel for each of the two pairs of numbers that is measured."""
    wanted = [
        ("After the last stage", "OP final, %", "General, %", data.kept),
        ("Of stage tasks", "learned, %", "forgotten, points", data.forgotten),
    ]
    parts = [part for part in wanted if part[3]]
    figure, (panels,) = sheet("Learning against forgetting", 1, len(parts), (4.4, 3.6))
    rates = {label: rate for rate, label in data.rates}
    names = [
        label for label in {**data.kept, **data.forgotten} if label not in rates or not data.rates
    ]
    styles = looks([*([PLAIN] if rates else []), *names])
    drawn: dict[str, Any] = {}
    for panel, (title, across, up, places) in zip(panels, parts, strict=True):
        if rates:
            drawn[f"{PLAIN}, by {RATE}"] = _line(panel, data.rates, places, styles[PLAIN])
        for label, (x, y) in places.items():
            if label not in rates:
                drawn[label] = panel.errorbar(
                    x.value, y.value, y.error, x.error, **styles[label].mark()
                )
        panel.set(xlabel=across, ylabel=up)
        panel.set_title(title)
    if data.kept and data.base:
        _, general = data.base
        drawn["General of the base model"] = level(panels[0], general.value)
    if data.forgotten:
        panels[-1].invert_yaxis()  # better is up, as in the other
    legend(figure, drawn)
    note(figure, BARS + (LINE if rates else "") + data.left_out)
    return figure


def _line(
    panel: Any, rates: Sequence[tuple[float, str]], places: Mapping[str, Place], look: Any
) -> Any:
    """Through all rates that are measured, rising, each written beside its point."""
    known = [(rate, *places[label]) for rate, label in rates if label in places]
    line = panel.errorbar(
        [x.value for _, x, _ in known],
        [y.value for _, _, y in known],
        [y.error for _, _, y in known],
        [x.error for _, x, _ in known],
        **look.line(),
    )
    for rate, x, y in known:
        place = {"textcoords": "offset points", "xytext": (5, 4), "fontsize": 7, "color": GREY}
        panel.annotate(plain(f"{rate:g}"), (x.value, y.value), **place)
    return line
