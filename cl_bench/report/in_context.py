"""The base model with worked examples: its rows, and how many examples each prompt had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_bench.report.cells import ORI, short
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
from cl_bench.report.tables import code
from cl_bench.results.in_context import InContextRow
from cl_bench.results.summary import documents
from cl_bench.scores.matrix import compare_paired
from cl_bench.store.seals import read_scores

Entry = Mapping[str, Any]


def in_context_section(
    experiment: Path, base: Entry, rows: Sequence[InContextRow]
) -> Iterator[Block]:
    """The rows of the matrix, task by task, and what stood in front of the prompts."""
    if not rows:
        return
    tasks = list(base["trace"])
    named = [(name, place) for row in rows for name, place in _named(row)]
    yield Heading("Examples in the prompt")
    yield Paragraph(
        "The base model, not trained, with worked examples of a task's training rows in front of "
        "every prompt of its stage task. General is not asked so. examples: those that a prompt "
        "had, mean over documents; fewer stand where all of them would not fit. Δ: against the "
        "same documents without examples, ± one standard error of the paired difference."
    )
    lines: list[list[Cell]] = [[ORI, *(_score(base, task) for task in tasks)]]
    for name, place in named:
        scores = read_scores(place)
        lines.append([name, *(_score(scores, task) for task in tasks)])
    columns = [Column("row", "left"), *(Column(short(task)) for task in tasks)]
    yield Table("in context", columns, lines)
    shown = [
        _line(experiment, name, place, task)
        for name, place in named
        for task in tasks
        if task in read_scores(place)["trace"]
    ]
    yield Table("examples", _COLUMNS, shown, labels=2)
    yield from _remarks(base, named)


_COLUMNS = [
    Column("row", "left"),
    Column("task", "left"),
    Column("Δ"),
    Column("asked"),
    Column("examples"),
    Column("fewest"),
    Column("documents with fewer"),
    Column("tokens at most"),
]


def _remarks(base: Entry, named: Sequence[tuple[str, Path]]) -> Iterator[Block]:
    """What the tables do not show of single rows."""
    for name, place in named:
        scores = read_scores(place)
        lines = [
            f"{name}, {short(task)}: not measured: {entry['not_measured']}."
            for task, entry in scores["trace"].items()
            if "not_measured" in entry
        ]
        if scores["engine"] != base["engine"]:
            lines.append(f"{name}: engine {code(scores['engine'])}.")
        yield from map(Paragraph, lines)


def _named(row: InContextRow) -> Iterator[tuple[str, Path]]:
    """The label, with the seed where there are several."""
    for place in row.places:
        yield (f"{row.label} {place.name}" if len(row.places) > 1 else row.label), place


def _score(scores: Entry, task: str) -> Number:
    entry = scores["trace"].get(task)
    return Number(None) if entry is None else percent([{**entry, "value": entry["score"]}])


def _line(experiment: Path, name: str, place: Path, task: str) -> list[Cell]:
    entry = read_scores(place)["trace"][task]
    shots = entry["shots"]
    return [
        name,
        short(task),
        _difference(experiment / "base", place, task),
        str(shots["asked"]),
        f"{shots['mean']:.3g}",
        str(shots["fewest"]),
        f"{shots['documents_with_fewer']} of {entry['n']}",
        str(shots["max_prompt_tokens"]),
    ]


def _difference(base: Path, place: Path, task: str) -> Number:
    names = {task: [task]}
    sides = [documents(folder / "predictions", names) for folder in (place, base)]
    if any(task not in side for side in sides):
        return Number(None)
    compared = compare_paired(*sides)
    return percent([{"value": compared.difference, "stderr": compared.stderr}], signed=True)
