"""Scores inside the stages: a table for each run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cl_bench.experiment.stage_files import check_curve
from cl_bench.report.cells import short
from cl_bench.report.document import Block, Cell, Column, Heading, Paragraph, Table, percent
from cl_bench.results.methods import MethodResult
from cl_bench.store.folders import RunFolder, read_records, there
from cl_bench.store.seals import read_scores

POINTS = 12
"""Rows of a stage in the table; the figure and curve.jsonl have all."""


@dataclass(frozen=True)
class RunCurve:
    """The curves of all stages of one run."""

    name: str
    stages: Sequence[tuple[int, str, Sequence[dict[str, Any]]]]
    """Stage number, its task, and the lines of its curve.jsonl."""

    @property
    def tasks(self) -> list[str]:
        """Every task that has a point, stage tasks first."""
        return list(
            dict.fromkeys(
                task
                for part in ("trace", "general")
                for _, _, points in self.stages
                for point in points
                for task in point[part]
            )
        )


def load_curves(results: Sequence[MethodResult]) -> list[RunCurve]:
    """Of every run that has some, the stages whose training is finished."""
    found = []
    for result in results:
        for run in result.runs:
            stages = list(_stages(run))
            if stages:
                found.append(RunCurve(result.name(run), stages))
    return found


def _stages(run: RunFolder) -> Iterator[tuple[int, str, list[dict[str, Any]]]]:
    for folder in run.stages():
        file = folder.path / "curve.jsonl"
        if folder.scored:
            check_curve(folder)
        if folder.scored and there(file):
            task = read_scores(folder.path)["task"]
            name = task if isinstance(task, str) else "joint"
            yield int(folder.path.name.split("-")[1]), name, read_records(file)


def curve_blocks(curves: Sequence[RunCurve]) -> Iterator[Block]:
    """A table for each run."""
    yield Heading("Inside the stages")
    yield Paragraph(
        "Update 0 is the model that a stage began with. ± is one standard error over documents."
    )
    for curve in curves:
        tasks = curve.tasks
        rows: list[list[Cell]] = [
            [f"{number_}", str(point["step"]), str(point["epoch"]), *_cells(point, tasks)]
            for number_, _, points in curve.stages
            for point in _thinned(points)
        ]
        yield Heading(curve.name, 3)
        columns = [Column("stage", "left"), Column("update"), Column("epoch")]
        columns += [Column(short(task)) for task in tasks]
        yield Table("curves", columns, rows, curve.name, labels=3)


def _cells(point: dict[str, Any], tasks: Sequence[str]) -> list[Cell]:
    found = point["trace"] | point["general"]
    return [
        percent([found[task] | {"value": found[task]["score"]}]) if task in found else "-"
        for task in tasks
    ]


def _thinned(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most POINTS of them at even distances, the first and the last among them."""
    last = len(points) - 1
    if last < POINTS:
        return list(points)
    return [points[round(i * last / (POINTS - 1))] for i in range(POINTS)]
