"""Tables about single cells: was anything learned, and which labels are predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from typing import Any

from cl_bench.metrics.trace_tasks import TASKS
from cl_bench.report.document import (
    Block,
    Cell,
    Column,
    Heading,
    Number,
    Paragraph,
    Table,
    percent,
)
from cl_bench.results.methods import MethodResult
from cl_bench.store.folders import RunFolder
from cl_bench.store.seals import read_scores

Entry = Mapping[str, Any]
ORI = "ori (base)"
"""The base model's row."""
Z = 1.96
"""Two-sided 95 %."""


def short(task: str) -> str:
    """TRACE's own name of a task, else the task's name."""
    return TASKS[task].trace_name if task in TASKS else task


def learned_table(base: Entry, results: Sequence[MethodResult]) -> Iterator[Block]:
    """Each task right after its own stage, against the base model and the best constant answer."""
    rows: list[list[Cell]] = []
    for task, before in base["trace"].items():
        for result in results:
            for run in result.runs:
                stages = result.visits.get(task, ())
                for stage in stages:
                    after = _scores(result, run, task, stage)
                    if after is None:
                        continue
                    constant = before.get("majority")
                    again = f", stage {stage}" if len(stages) > 1 else ""
                    rows.append(
                        [
                            short(task) + again,
                            result.name(run),
                            str(after["n"]),
                            _percent(before),
                            Number(None if constant is None else 100 * constant),
                            _percent(after),
                            _above(after, before["score"], before["stderr"]),
                            "-" if constant is None else _above(after, constant, 0.0),
                        ]
                    )
    if rows:
        yield Heading("What was learned")
        yield Paragraph(
            "Each task right after its own stage. above: by more than 1.96 standard errors of the "
            "difference; otherwise nothing is claimed."
        )
        columns = [
            Column("task", "left"),
            Column("method", "left"),
            Column("n"),
            Column("base"),
            Column("constant"),
            Column("after"),
            Column("above base", "left"),
            Column("above constant", "left"),
        ]
        yield Table("learned", columns, rows, labels=2)


def _above(after: Entry, reference: float | None, stderr: float | None) -> str:
    if after["score"] is None or reference is None:
        return "not measured"
    difference = after["score"] - reference
    if after["stderr"] is None or stderr is None:
        return "unknown"
    if difference > Z * sqrt(after["stderr"] ** 2 + stderr**2):
        return "yes"
    return "no" if difference <= 0 else "not resolved"


def labels_table(base: Entry, results: Sequence[MethodResult]) -> Iterator[Block]:
    """Classification cells beside the best constant answer, with the predicted labels."""
    rows: list[list[Cell]] = []
    for task, entry in base["trace"].items():
        if entry.get("majority") is None:
            continue
        found = [("base", entry)]
        for result in results:
            for run in result.runs:
                found += _own_and_last(result, run, task)
        rows += [_label_row(task, name, cell) for name, cell in found]
    if rows:
        yield Heading("Classification cells")
        accuracy = all(
            entry.get("aggregation", "mean") == "mean" for entry in base["trace"].values()
        )
        what = "accuracy" if accuracy else "score"
        yield Paragraph(
            f"constant: {what} of the best constant answer. A cell near it has learned nothing."
        )
        columns = [
            Column("task", "left"),
            Column("after", "left"),
            Column("n"),
            Column(what),
            Column("constant"),
            Column("predicted labels, %", "left"),
        ]
        yield Table("labels", columns, rows, labels=2)


def _label_row(task: str, name: str, cell: Entry) -> list[Cell]:
    labels = cell["labels"] or {}
    shares = ", ".join(f"{label} {100 * share:.0f}" for label, share in labels.items()) or "-"
    constant = Number(100 * cell["majority"])
    return [short(task), name, str(cell["n"]), _percent(cell), constant, shares]


def _own_and_last(result: MethodResult, run: RunFolder, task: str) -> list[tuple[str, Entry]]:
    """The task after its own stage (each that teaches it) and after the last one."""
    found = []
    for stage in dict.fromkeys((*result.visits.get(task, ()), result.stages)):
        cell = _scores(result, run, task, stage)
        if cell is not None:
            found.append((f"{result.name(run)}, stage {stage}", cell))
    return found


def _scores(result: MethodResult, run: RunFolder, task: str, stage: int) -> Entry | None:
    for folder in run.stages():
        if folder.scored:
            scores = read_scores(folder.path)
            if scores["stage"] == stage:
                found: Entry | None = scores["trace"].get(task)
                return found
    return None


def _percent(cell: Entry) -> Number:
    return percent([{**cell, "value": cell["score"]}])
