"""The figure of means as tasks are added: OP_t and General after every stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cl_bench.data.tasks import canonical_name
from cl_bench.report.figures.source import Estimate, Source, percent_of
from cl_bench.report.figures.style import GREY, legend, looks, note, sheet
from cl_bench.results.methods import MethodResult
from cl_bench.results.summary import base_summary
from cl_bench.scores.matrix import op_at

BARS = "Bars as ± in tables: standard error over documents, or standard deviation over seeds."
BASE = "base model"
BESIDE = 0.4
"""Of a stage's width, which all methods share."""
Line = Sequence[tuple[int, Estimate]]


@dataclass(frozen=True)
class StageLines:
    """By method: stages that are measured in every seed."""

    op: Mapping[str, Line]
    general: Mapping[str, Line]
    left_out: str


def find(source: Source) -> StageLines | None:
    """None unless some method has two stages with OP or General."""
    op: dict[str, Line] = {}
    general: dict[str, Line] = {}
    for method in source.shown():
        if method.result.setting == "sequential":
            op[method.label] = list(_known(_op(method.result)))
            general[method.label] = list(_known(_general(method.result)))
    if not any(len(line) > 1 for line in [*op.values(), *general.values()]):
        return None
    base = _base(source)
    return StageLines({BASE: base[0], **op}, {BASE: base[1], **general}, source.left_out())


def _op(result: MethodResult) -> Iterator[tuple[int, Estimate | None]]:
    for stage in range(1, min(len(one.matrix.rows) for one in result.summaries) + 1):
        found = [op_at(one.matrix, stage).to_json() for one in result.summaries]
        yield stage, percent_of(found)


def _general(result: MethodResult) -> Iterator[tuple[int, Estimate | None]]:
    for i in range(min(len(one.general) for one in result.summaries)):
        yield i + 1, percent_of([one.general[i].mean.to_json() for one in result.summaries])


def _base(source: Source) -> tuple[Line, Line]:
    """The base model on the tasks so far, and its General, which stays."""
    first = source.group.first
    sequence = [canonical_name(stage["task"]) for stage in first.config["stages"]]
    data = base_summary(first.folder, source.found.tasks, sequence).to_json()
    general = percent_of([data["general_final"]["general"]])
    op = _known((i, percent_of([each])) for i, each in enumerate(data["op"], 1))
    stages = range(1, len(sequence) + 1)
    return list(op), list(_known((stage, general) for stage in (stages[0], stages[-1])))


def _known(line: Iterable[tuple[int, Estimate | None]]) -> Iterator[tuple[int, Estimate]]:
    return ((stage, found) for stage, found in line if found is not None)


def draw(data: StageLines) -> Any:
    """Two panels, a line for each method."""
    figure, ((op, general),) = sheet("As tasks are added", 1, 2, (4.2, 3.2))
    names = [label for label in data.op if label != BASE]
    styles = looks(names)
    # Bars of one stage stand beside each other, or the last one hid the others.
    step = min(0.08, BESIDE / len(names))
    beside = {label: step * (i - (len(names) - 1) / 2) for i, label in enumerate(names)}
    drawn: dict[str, Any] = {}
    for panel, lines in ((op, data.op), (general, data.general)):
        for label, line in lines.items():
            if not line:
                continue
            stages, values = [stage for stage, _ in line], [each.value for _, each in line]
            if label == BASE:
                (drawn[label],) = panel.plot(stages, values, color=GREY, linestyle=(0, (3, 2)))
                continue
            errors = [each.error for _, each in line]
            places = [stage + beside[label] for stage in stages]
            drawn[label] = panel.errorbar(places, values, errors, **styles[label].line())
        panel.set(xlabel="stage", ylabel="%")
        panel.xaxis.get_major_locator().set_params(integer=True)
    op.set_title("OP, the mean over tasks so far")
    general.set_title("General")
    legend(figure, {label: drawn[label] for label in [*names, BASE] if label in drawn})
    note(figure, BARS + data.left_out)
    return figure
