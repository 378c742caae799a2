"""The figure of training: the loss of every update, a panel for each stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from cl_bench.report.cells import short
from cl_bench.report.figures.source import Source
from cl_bench.report.figures.style import empty, legend, looks, note, plain, sheet
from cl_bench.store.folders import (
    RunFolder,
    StageFolder,
    sha256_file,
    stage_number,
    there,
)

COLUMNS = 4
POINTS = 120
"""Of a line: more updates are joined to means of as many neighbours each."""


@dataclass(frozen=True)
class Log:
    """The `train.jsonl` of a stage, and its checksum: it is read only if the figure is drawn."""

    label: str
    number: int
    task: str
    file: Path
    sha256: str

    def __repr__(self) -> str:
        return f"Log({self.label!r}, {self.number}, {self.task!r}, {self.sha256})"


@dataclass(frozen=True)
class Logs:
    """Of the first seed of every method that is shown, stages that have begun to train."""

    found: Sequence[Log]
    note: str


def find(source: Source) -> Logs | None:
    """None where no stage left a log."""
    found = []
    for label, run in source.first_runs():
        found += source.read(partial(_logs, label, run)) or []
    about = "Loss of each update, in nats per token of the answers; first seeds."
    return Logs(found, about + source.left_out()) if found else None


def _logs(label: str, run: RunFolder) -> list[Log]:
    found = []
    for stage in run.stages():
        file = stage.path / "train.jsonl"
        if there(file) and file.stat().st_size:
            number = stage_number(stage.path.name)
            found.append(Log(label, number, _task(stage), file, sha256_file(file)))
    return found


def _task(stage: StageFolder) -> str:
    return short(stage.path.name.split("-", 2)[2])


def losses(file: Path) -> list[tuple[float, float]]:
    """Update and loss, up to POINTS of them, of the lines that can be read.

    A run that was killed may leave a part of a line; an update that diverged has no finite loss.
    """
    known = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            step, loss = float(record["step"]), float(record["loss"])
            known += [(step, loss)] if isfinite(loss) else []
    width = max(1, -(-len(known) // POINTS))
    parts = [known[i : i + width] for i in range(0, len(known), width)]
    return [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in parts]


def draw(data: Logs) -> Any:
    """A panel for each stage, a line for each method."""
    stages = sorted({(log.number, log.task) for log in data.found})
    columns = min(COLUMNS, len(stages))
    rows = -(-len(stages) // columns)
    figure, panels = sheet("Training loss", rows, columns, (2.6, 2.1))
    styles = looks(list(dict.fromkeys(log.label for log in data.found)))
    drawn: dict[str, Any] = {}
    for panel, (number, task) in zip(panels.flat, stages, strict=False):
        for log in data.found:
            if (log.number, log.task) != (number, task):
                continue
            points = losses(log.file)
            (drawn[log.label],) = panel.plot(
                [x for x, _ in points],
                [y for _, y in points],
                color=styles[log.label].colour,
                linestyle=styles[log.label].dash,
                marker=styles[log.label].marker,
                markerfacecolor="white",
                markersize=4,
                markevery=max(1, len(points) // 5),
                linewidth=1.1,
            )
        panel.set_title(plain(f"{number} {task}"))
        panel.set_xlabel("update")
        panel.xaxis.get_major_locator().set_params(integer=True, nbins=5)
    empty(list(panels.flat)[len(stages) :])
    legend(figure, drawn)
    note(figure, data.note)
    return figure
