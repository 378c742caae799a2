"""What was odd about answers before the run, and requests that were not answered as asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cl_bench.report.cells import short
from cl_bench.report.document import Block, Bullets, Column, Heading, Paragraph, Table
from cl_bench.results.methods import MethodResult
from cl_bench.store.seals import read_scores

COUNTS = ("truncated", "empty", "unshared")
ABOUT = (
    "truncated: the prompt was longer than the model's window and lost tokens on its left. empty: "
    "the continuation had no token, its log-likelihood is 0. unshared: answered by lm-eval's HFLM, "
    "because the model or the request allows no sharing of prefixes."
)


def requests_section(base: Mapping[str, Any], results: Sequence[MethodResult]) -> Iterator[Block]:
    """A row for each scoring of a task with such requests; nothing where there are none."""
    rows = [["base", "-", *row] for row in _rows(base)]
    for result in results:
        for run in result.runs:
            for stage in run.stages():
                if stage.scored:
                    scores = read_scores(stage.path)
                    label = [result.name(run), str(scores["stage"])]
                    rows += [[*label, *row] for row in _rows(scores)]
    if not rows:
        return
    yield Heading("Requests that were not answered as asked")
    yield Paragraph(ABOUT)
    columns = [Column("method", "left"), Column("stage", "left"), Column("task", "left")]
    columns += [Column(name) for name in ("requests", *COUNTS)]
    yield Table("requests", [*columns, Column("why unshared", "left")], rows, labels=3)


def _rows(scores: Mapping[str, Any]) -> Iterator[list[str]]:
    for task, entry in {**scores["trace"], **scores["general"]}.items():
        counts = entry.get("requests") if isinstance(entry, Mapping) else None
        if counts and any(counts.get(name) for name in COUNTS):
            figures = [str(counts.get(name, "-")) for name in ("requests", *COUNTS)]
            yield [short(task), *figures, counts.get("reason", "")]


def notes_section(notes: Sequence[str]) -> Iterator[Block]:
    """What was said of data and answers at the start of the last run; nothing without notes."""
    if not notes:
        return
    yield Heading("Said at the start")
    # As code, since they quote answers, whose signs are not to be read as Markdown.
    fences = ["`" * (1 + max(map(len, re.findall("`*", note)))) for note in notes]
    yield Bullets([f"{f} {note} {f}" for f, note in zip(fences, notes, strict=True)])
