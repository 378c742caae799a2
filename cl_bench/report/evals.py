"""What `cl-bench eval` scored, beside the scores of the stage and of the base model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_bench.report.cells import short
from cl_bench.report.document import (
    Block,
    Cell,
    Column,
    Heading,
    Paragraph,
    Table,
    percent,
    text_of,
)
from cl_bench.report.tables import table
from cl_bench.results.methods import MethodResult
from cl_bench.store.folders import StageFolder, stage_number, there
from cl_bench.store.seals import read_scores

BESIDE = "stage and base: the run's own scores, of as many documents as stand in brackets"


def eval_lines(scores_file: Path) -> list[str]:
    """A Markdown table of one finished eval, for the terminal."""
    place = scores_file.parent
    stage = place.parents[1]
    base = _entries(StageFolder(stage).base)
    columns = [Column("task", "left"), Column("eval"), Column("stage"), Column("base")]
    rows = list(_rows(_entries(place), _entries(stage), base))
    name = f"{stage.parents[1].name}, {stage.parent.name.replace('-', ' ')}, {stage.name}"
    return [name, *table(columns, rows), f"In per cent; {BESIDE}."]


def model_lines(scores_file: Path) -> list[str]:
    """A Markdown table of a model's scores: `cl-bench eval MODEL`."""
    scores = read_scores(scores_file.parent)
    settings = scores["settings"]
    rows = [[short(task), _score(entry), str(entry["n"])] for task, entry in _of(scores).items()]
    if len(rows) > 1:
        rows.append(["mean", _score({"value": scores["general"]["mean"]}), ""])
    columns = [Column("task", "left"), Column("score"), Column("n")]
    said = f"{settings['model']} in {settings['dtype']}, engine `{settings['engine']}`"
    return [said, "", *table(columns, rows), "", "In per cent, ±: standard error over documents."]


def evals_section(base: Mapping[str, Any], results: Sequence[MethodResult]) -> Iterator[Block]:
    """Every finished eval of every stage; nothing where there is none."""
    rows: list[list[Cell]] = []
    for result in results:
        for run in result.runs:
            for stage in run.stages():
                for place in sorted(stage.path.glob("evals/*/")):
                    if there(place / "scores.json"):
                        where = [result.name(run), str(stage_number(stage.path.name))]
                        found = _rows(_entries(place), _entries(stage.path), _of(base))
                        rows += [[*where, *cells] for cells in found]
    if not rows:
        return
    yield Heading("Scored again")
    yield Paragraph(
        f"By `cl-bench eval`, each in a folder below `evals/` of its stage; {BESIDE}. No other "
        "table has these numbers."
    )
    titles = ("method", "stage", "task")
    columns = [*(Column(title, "left") for title in titles)]
    columns += [Column("eval"), Column("stage's", key="stage_score"), Column("base")]
    yield Table("evals", columns, rows, labels=3)


def _rows(
    scored: Mapping[str, Any], stage: Mapping[str, Any], base: Mapping[str, Any]
) -> Iterator[list[str]]:
    """Task; its score in the eval, after the stage and of the base model."""
    for task, entry in scored.items():
        yield [short(task), *map(_cell, (entry, stage.get(task), base.get(task)))]


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry.get("score") is None:
        return "-"
    return f"{_score(entry)} ({entry['n']})"


def _score(entry: Mapping[str, Any]) -> str:
    value = entry.get("score", entry.get("value"))
    if value is None:
        return "-"
    return text_of(percent([{"value": value, "stderr": entry.get("stderr")}]))


def _entries(place: Path) -> dict[str, Any]:
    """By task; empty where nothing is scored (yet)."""
    return _of(read_scores(place)) if there(place / "scores.json") else {}


def _of(scores: Mapping[str, Any]) -> dict[str, Any]:
    entries = {**scores["trace"], **scores["general"]}
    return {name: entry for name, entry in entries.items() if name != "mean"}
