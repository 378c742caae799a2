"""What was odd about answers before the run, and requests that were not answered as asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cl_bench.report.cells import short
from cl_bench.report.tables import Column, table
from cl_bench.results.methods import MethodResult
from cl_bench.store.seals import read_scores

COUNTS = ("truncated", "empty", "unshared")
ABOUT = (
    "truncated: the prompt was longer than the model's window and lost tokens on its left. empty: "
    "the continuation had no token, its log-likelihood is 0. unshared: answered by lm-eval's HFLM, "
    "because the model or the request allows no sharing of prefixes."
)


def requests_section(base: Mapping[str, Any], results: Sequence[MethodResult]) -> Iterator[str]:
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
    yield ""
    yield "## Requests that were not answered as asked"
    yield ""
    yield ABOUT
    yield ""
    columns = [Column("method", "left"), Column("stage", "left"), Column("task", "left")]
    columns += [Column(name) for name in ("requests", *COUNTS)]
    yield from table([*columns, Column("why unshared", "left")], rows)


def _rows(scores: Mapping[str, Any]) -> Iterator[list[str]]:
    for task, entry in {**scores["trace"], **scores["general"]}.items():
        counts = entry.get("requests") if isinstance(entry, Mapping) else None
        if counts and any(counts.get(name) for name in COUNTS):
            figures = [str(counts.get(name, "-")) for name in ("requests", *COUNTS)]
            yield [short(task), *figures, counts.get("reason", "")]


def notes_section(notes: Sequence[str]) -> Iterator[str]:
    """What was said of data and answers at the start of the last run; nothing without notes."""
    if not notes:
        return
    yield ""
    yield "## Said at the start"
    yield ""
    for note in notes:
        # As code, since it quotes answers, whose signs are not to be read as Markdown.
        fence = "`" * (1 + max(map(len, re.findall("`*", note))))
        yield f"- {fence} {note} {fence}"
