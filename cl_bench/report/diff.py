"""What `cl-bench diff` prints."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cl_bench.models.contents import names
from cl_bench.report.diff_documents import WIDTH, document_json, document_lines
from cl_bench.report.tables import Column, code, percentages, table
from cl_bench.results.compare import TaskDiff
from cl_bench.results.places import Place
from cl_bench.results.shown_documents import Shown
from cl_bench.scores.uncertainty import Comparison, holm

SCORES = ("n", "A", "B", "B - A", "95 % interval", "p")
DOCUMENTS = ("forgotten", "learned", "each by chance", "other", "log-lik.")


@dataclass(frozen=True)
class Diff:
    """Two places, what differs, and the documents that are shown."""

    first: Place
    second: Place
    tasks: Sequence[TaskDiff]
    general: TaskDiff | None = None
    """All benchmarks of General together."""
    shown: Shown = field(default_factory=Shown)

    @property
    def rows(self) -> list[TaskDiff]:
        """The tasks, and General below them."""
        return [*self.tasks, *([] if self.general is None else [self.general])]


def diff_lines(diff: Diff) -> Iterator[str]:
    """Markdown: tables with a line for each task, a single group's members, and the documents."""
    yield f"A: {code(str(diff.first.path))}"
    yield f"B: {code(str(diff.second.path))}"
    yield ""
    yield from _tables(diff.rows)
    yield ""
    for line in explained(diff):
        yield from textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False)
        yield ""
    if len(diff.tasks) == 1 and diff.tasks[0].members:
        (only,) = diff.tasks
        beginning = _beginning(list(only.members))
        yield f"## {only.task}: members" + (f" ({beginning}...)" if beginning else "")
        yield ""
        yield from _tables(list(only.members.values()), len(beginning))
        yield ""
    for changed in diff.shown.changed:
        yield f"## {changed.task}: {changed.word} ({len(changed.pairs)} of {changed.total})"
        yield ""
        for pair in changed.pairs:
            yield from document_lines(pair, diff.shown)
            yield ""
    for leaf, reason in diff.shown.not_there.items():
        text = f"{leaf}: its questions cannot be shown: {reason}."
        yield from textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
        yield ""
    if not diff.shown.changed and any(each.forgotten or each.learned for each in diff.tasks):
        yield "`--show 5` prints so many of each with question, gold and both answers;"
        yield "`--html FILE` writes all of them."


def explained(diff: Diff) -> Iterator[str]:
    """What the columns mean, and what a row has that others do not."""
    yield (
        "forgotten: right in A, wrong in B; learned: the other way round (*: scores that may lie "
        "between; fell, rose). other: answered otherwise. log-lik.: largest difference in nats."
    )
    yield (
        "B - A: over the same documents, with its 95 % interval. p: McNemar's test where documents "
        "are right or wrong, and the interval is that of the same test; Student's t where scores "
        "may lie between. The interval excludes 0 exactly where p < 0.05."
    )
    if line := _corrected(diff.tasks):
        yield line
    if any(row.by_chance is not None for row in diff.rows):
        yield (
            "each by chance: of tasks with choices, so many documents would be forgotten, and as "
            "many learned, by two models that guess what neither knows; an upper bound, as B "
            "guesses much like A."
        )
    if diff.general is not None:
        yield (
            f"{diff.general.task}: the unweighted mean of its {len(diff.general.members)} "
            "benchmarks above; its interval and test are of all their documents together, each "
            "benchmark a stratum."
        )
    if of_all := [each.task for each in diff.tasks if each.of_all]:
        yield (
            f"{', '.join(of_all)}: a number of all documents together; its interval is from the "
            "same resampled documents on both sides. forgotten and learned count single answers."
        )
    for each in diff.rows:
        for side, reason in each.not_measured.items():
            yield f"{each.task}: not measured in {side}: {reason}."


def _corrected(diffs: Sequence[TaskDiff]) -> str | None:
    """Which tasks differ when it is counted how many are asked."""
    found = {each.task: each.comparison.p_value for each in diffs if each.comparison is not None}
    asked = [p for p in found.values() if p is not None]
    if len(asked) < 2 or min(asked) >= 0.05:
        return None
    left = [
        task
        for task, p in zip(found, holm(list(found.values())), strict=True)
        if p is not None and p < 0.05
    ]
    return (
        f"Each p is of one task alone. Corrected for {len(asked)} tasks (Holm), "
        f"{names(left) if left else 'none'} differ{'s' if len(left) < 2 else ''}."
    )


def diff_json(diff: Diff) -> str:
    """The same as one JSON object, with the ids of all documents that changed."""
    tasks = {each.task: each.to_json() for each in diff.tasks}
    found: dict[str, Any] = {"a": str(diff.first.path), "b": str(diff.second.path), "tasks": tasks}
    if diff.general is not None:
        found["general"] = diff.general.summary()
    if diff.shown.changed:
        found["documents"] = [
            document_json(changed, pair, diff.shown)
            for changed in diff.shown.changed
            for pair in changed.pairs
        ]
        found["questions_not_there"] = dict(diff.shown.not_there)
    return json.dumps(found, indent=1)


def _beginning(names: Sequence[str]) -> str:
    """What all names begin with, up to an underscore."""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    return first[: first.rfind("_", 0, same) + 1]


def _tables(diffs: Sequence[TaskDiff], left_out: int = 0) -> Iterator[str]:
    """Two, so that neither is wider than 100 columns; without so many characters of each name."""
    for titles, cells in ((SCORES, scores_row), (DOCUMENTS, documents_row)):
        columns = [Column("task", "left"), *map(Column, titles)]
        yield from table(columns, [[task_cell(diff)[left_out:], *cells(diff)] for diff in diffs])
        if titles is SCORES:
            yield ""


def task_cell(diff: TaskDiff) -> str:
    """Its name, with a star where scores of documents may lie between right and wrong."""
    return diff.task + ("*" if diff.graded else "")


def scores_row(diff: TaskDiff) -> list[str]:
    """The cells of `SCORES`."""
    return [
        str(len(diff.pairs)),
        percentages([{"value": diff.before}]),
        percentages([{"value": diff.after}]),
        *_difference(diff.comparison),
    ]


def documents_row(diff: TaskDiff) -> list[str]:
    """The cells of `DOCUMENTS`."""
    gap = diff.loglikelihood_gap
    return [
        str(len(diff.forgotten)),
        str(len(diff.learned)),
        "-" if diff.by_chance is None else f"{diff.by_chance:.1f}",
        "-" if diff.other_answers is None else str(diff.other_answers),
        "-" if gap is None else f"{gap:.2g}",
    ]


def _difference(compared: Comparison | None) -> list[str]:
    """B - A, its interval and p."""
    if compared is None:
        return ["-", "-", "-"]
    interval = "-"
    if compared.low is not None and compared.high is not None:
        interval = f"{100 * compared.low:+.2f} to {100 * compared.high:+.2f}"
    return [f"{100 * compared.difference:+.2f}", interval, _p_value(compared.p_value)]


def _p_value(p: float | None) -> str:
    """Never rounded across 0.05."""
    if p is None:
        return "-"
    text = f"{p:.2g}"
    return text if (float(text) < 0.05) == (p < 0.05) else f"{p:.5f}"
