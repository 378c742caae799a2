"""Does the divergence on a new task's text predict what General loses? All stages of all runs.

Shenfeld et al. (RL's Razor, arXiv 2509.04259) found that KL(base || model) on the new task does,
whichever way a model was trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cl_bench.report.cells import short
from cl_bench.report.document import (
    Block,
    Column,
    Heading,
    Number,
    Paragraph,
    Table,
    percent,
)
from cl_bench.report.document import Cell as TableCell
from cl_bench.results.methods import MethodResult
from cl_bench.results.summary import cells
from cl_bench.scores.cells import Cell, unweighted_mean
from cl_bench.scores.general import general_score
from cl_bench.scores.ranks import spearman
from cl_bench.store.file_errors import what_failed
from cl_bench.store.folders import write_json
from cl_bench.store.seals import read_scores
from cl_bench.terminal import say

Entry = Mapping[str, Any]
DATA = "kl-general.json"


@dataclass(frozen=True)
class Point:
    """One stage of one run; divergences in nats per token, the loss on 0-1."""

    method: str
    """With the seed where there are several."""
    stage: int
    tasks: tuple[str, ...]
    kl: float
    kl_stderr: float | None
    reverse_kl: float | None
    general_loss: float
    """General of the base model less that after the stage: positive is forgetting."""
    general_loss_stderr: float | None


def kl_points(base: Entry, results: Sequence[MethodResult]) -> tuple[list[Point], int]:
    """Every stage that has both numbers, and how many scored stages lack one of them."""
    found, lacking = [], 0
    for result in results:
        for run in result.runs:
            for stage in run.stages():
                if stage.scored:
                    point = _point(result.name(run), read_scores(stage.path), base)
                    found += [point] if point else []
                    lacking += point is None
    return found, lacking


def _point(method: str, scores: Entry, base: Entry) -> Point | None:
    moved = divergence_of(scores, "kl")
    lost = general_score(cells(scores["general"]), cells(base["general"])).delta
    if moved is None or lost.value is None:
        return None
    back = divergence_of(scores, "reverse_kl")
    return Point(
        method=method,
        stage=int(scores["stage"]),
        tasks=_tasks(scores),
        kl=moved.score,
        kl_stderr=moved.stderr,
        reverse_kl=None if back is None else back.score,
        general_loss=-lost.value,
        general_loss_stderr=lost.stderr,
    )


def _tasks(scores: Entry) -> tuple[str, ...]:
    task = scores.get("task", ())
    return (task,) if isinstance(task, str) else tuple(task)


def divergence_of(scores: Entry, key: str) -> Cell | None:
    """`kl` or `reverse_kl` on the text of the stage's own task; of several the unweighted mean.

    None for the base model's scores, and where one of the tasks is not measured.
    """
    probes = scores.get("probes", {}).get("trace", {})
    entries = [probes.get(name, {}).get(key) for name in _tasks(scores)]
    known = [one for one in entries if one is not None and one["mean"] is not None]
    if not known or len(known) < len(entries):
        return None
    return unweighted_mean(Cell(one["mean"], one["n"], one["stderr"]) for one in known)


def kl_data(points: Sequence[Point], lacking: int) -> dict[str, Any]:
    """What `kl-general.json` holds."""
    back = [point for point in points if point.reverse_kl is not None]
    losses = [point.general_loss for point in back]
    return {
        "points": [asdict(point) for point in points],
        "not_measured": lacking,
        "spearman": {
            "kl": spearman([p.kl for p in points], [p.general_loss for p in points]),
            "reverse_kl": spearman([p.reverse_kl or 0.0 for p in back], losses),
        },
    }


def kl_section(points: Sequence[Point], lacking: int, folder: Path) -> Iterator[Block]:
    """Rank correlation and table; the same numbers in `kl-general.json` in the folder."""
    if not points:
        return
    data = kl_data(points, lacking)
    _write(data, folder)
    yield Heading("KL on the new task against the loss of General")
    yield Paragraph(
        "A point is a stage of a run. KL: base to model, on gold answers of the stage's own task "
        "that no stage trains on, in nats per token; reverse: model to base. General loss: of the "
        "base model less that after the stage, in points."
    )
    yield Paragraph(_correlation(data["spearman"], points, lacking))
    yield Table("kl", COLUMNS, [_row(point) for point in points], labels=3)


COLUMNS = [
    Column("method", "left"),
    Column("stage", "left"),
    Column("task", "left"),
    Column("KL"),
    Column("reverse"),
    Column("General loss"),
]


def _row(point: Point) -> list[TableCell]:
    loss = {"value": point.general_loss, "stderr": point.general_loss_stderr}
    return [
        point.method,
        str(point.stage),
        " + ".join(map(short, point.tasks)),
        Number(point.kl, 4, spread=point.kl_stderr, of="documents"),
        Number(point.reverse_kl, 4),
        percent([loss], signed=True),
    ]


def _correlation(found: Mapping[str, float | None], points: Sequence[Point], lacking: int) -> str:
    def text(key: str) -> str:
        return "not defined" if found[key] is None else f"{found[key]:.2f}"

    many = "1 point" if len(points) == 1 else f"{len(points)} points"
    more = f" {lacking} scored stages lack one of the two." if lacking else ""
    return (
        f"Spearman's rank correlation over {many}: {text('kl')} (reverse: {text('reverse_kl')}). "
        f"Stages of one run are not independent of each other.{more}"
    )


def _write(data: Mapping[str, Any], folder: Path) -> None:
    """A folder that cannot be written keeps the report from nothing."""
    try:
        write_json(folder / DATA, data)
    except OSError as error:
        say(f"cl-bench: warning: {DATA} was not written ({what_failed(error)})")
