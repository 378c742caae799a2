"""The method table as papers have it, and what was lost and gained by benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cl_bench.report.cells import ORI, short
from cl_bench.report.document import Cell, Column, Number, Table, percent
from cl_bench.report.expected import COLUMNS as PUBLISHED
from cl_bench.report.expected import printed_digits
from cl_bench.results.groups import Group
from cl_bench.results.standings import Against, Change, Difference, Score, Standing, Standings
from cl_bench.results.summary import base_summary

COSTS = ("time", "memory")
FIRST, BESIDE = 1, 2
"""Levels of columns that a first screen may lack: the second stand in other tables or files."""


def main_table(group: Group, found: Standings) -> Table:
    """A row for the base model and every method; the best of finished methods in bold."""
    columns = _columns(found)
    first = [_base_row(group, found), *_in_context(group, found)]
    rows = [*first, *(_row(method, found) for method in found.methods)]
    labels = ["ori", *(str(row[0]) for row in rows[1:])]
    published = list(_published(group, labels))
    columns += [column for column, _ in published]
    cells = [[*row, *(numbers[i] for _, numbers in published)] for i, row in enumerate(rows)]
    finished = [i for i, m in enumerate(found.methods, len(first)) if m.result.complete]
    if len(finished) > 1:
        _mark_best(columns, cells, finished)
    caption = "Every method after its last stage; scores in percent."
    whole = Table("main", columns, cells, caption)
    if found.methods:
        return whole
    rest = [i for i, cell in enumerate(rows[0]) if not (isinstance(cell, Number) and _none(cell))]
    return whole.of_columns([*rest, *range(len(rows[0]), len(columns))])


def _none(number: Number) -> bool:
    return number.value is None


def _columns(found: Standings) -> list[Column]:
    columns = [Column("method", "left")]
    columns.append(Column("old data", "left", "old_data", BESIDE, floats=True))
    columns += [Column(short(name), key=name, spare=BESIDE) for name in found.benchmarks]
    for title, key in (("General", "general"), ("OP final", "op_final")):
        columns.append(Column(title, key=key))
        # The larger part of OP's difference to the base model is what any training gives.
        spare = FIRST if key == "op_final" else 0
        columns.append(Column("Δ base", key=f"{key}_minus_base", joined=True, spare=spare))
        if found.baseline is not None:
            title = f"Δ {found.baseline}"
            columns.append(Column(title, key=f"{key}_minus_baseline", joined=True))
    columns += [Column("OP mean", key="op_mean"), Column("BWT", key="bwt")]
    columns.append(Column("forgotten"))
    return columns + [Column(title, spare=BESIDE) for title in COSTS]


def _base_row(group: Group, found: Standings) -> list[Cell]:
    first = group.first
    sequence = _sequence(first.config)
    data = base_summary(first.folder, found.tasks, sequence).to_json()
    gaps = [Number(None)] * (1 if found.baseline is None else 2)
    return [
        ORI,
        "-",
        *(_plain(found.base.cell(name)) for name in found.benchmarks),
        percent([data["general_final"]["general"]]),
        *gaps,
        percent([data["op_final"]]),
        *gaps,
        percent([data["op_mean"]]),
        *[Number(None)] * 4,
    ]


def _in_context(group: Group, found: Standings) -> Iterator[list[Cell]]:
    """The base model with worked examples; General is not asked so."""
    gaps = [Number(None)] * (1 if found.baseline is None else 2)
    for experiment in group.experiments:
        for row in experiment.in_context:
            summaries = row.summaries(found.tasks, _sequence(experiment.config))
            data = [summary.to_json() for summary in summaries]
            yield [
                row.label,
                "-",
                *[Number(None)] * (len(found.benchmarks) + 1),
                *gaps,
                percent([each["op_final"] for each in data]),
                *gaps,
                percent([each["op_mean"] for each in data]),
                *[Number(None)] * 4,
            ]


def _sequence(config: Mapping[str, Any]) -> list[str]:
    from cl_bench.data.tasks import canonical_name

    return [canonical_name(stage["task"]) for stage in config["stages"]]


def _plain(cell: Any) -> Number:
    return Number(None if cell is None else 100 * cell.score)


def _row(method: Standing, found: Standings) -> list[Cell]:
    data = [summary.to_json() for summary in method.result.summaries]
    finals = [each["general_final"]["general"] for each in data]
    return [
        method.label,
        "not recorded" if method.keeps is None else " + ".join(method.keeps) or "nothing",
        *(_benchmark(method, name) for name in found.benchmarks),
        percent(finals),
        *_gaps(method, "general", found),
        percent([each["op_final"] for each in data]),
        *_gaps(method, "op", found),
        percent([each["op_mean"] for each in data]),
        percent([each["bwt"] for each in data], signed=True),
        percent([each["forgetting"] for each in data]),
        Number(method.cost.seconds, 2),
        Number(method.cost.memory, 2),
    ]


def _benchmark(method: Standing, name: str) -> Number:
    """Without its error, which stands with its change in the table of what was lost."""
    cells = [last.cell(name) for last in method.lasts]
    if not cells or None in cells:
        return Number(None)
    return Number(100 * sum(cell.score for cell in cells if cell is not None) / len(cells))


def _gaps(method: Standing, score: Score, found: Standings) -> Iterator[Number]:
    sides: tuple[Against, ...] = ("base",) if found.baseline is None else ("base", "baseline")
    for against in sides:
        yield gap(method.differences.get((score, against)))


def gap(difference: Difference | None) -> Number:
    """A difference in points, marked where it is not resolved."""
    if difference is None or difference.compared is None:
        return Number(None)
    value = 100 * difference.compared.comparison.difference
    return Number(value, signed=True, resolved=difference.resolved)


def _published(group: Group, labels: Sequence[str]) -> Iterator[tuple[Column, list[Number]]]:
    """A column for each kind of number that a source prints; the source's number in its head."""
    sources = [source for e in group.experiments for source in e.config.get("expected", [])]
    distinct = [source for i, source in enumerate(sources) if source not in sources[:i]]
    for number, source in enumerate(distinct, 1):
        numbers = source.get("numbers", {})
        for key, title in PUBLISHED.items():
            values = [numbers.get(label, {}).get(key) for label in labels]
            if any(value is not None for value in values):
                mark = f" [{number}]" if len(distinct) > 1 else ""
                head = f"{source['kind']}{mark}: {title}"
                column = Column(head, key=f"{source['kind']}_{number}_{key}", spare=FIRST)
                yield column, [Number(v, printed_digits(v), key == "bwt") for v in values]


def _mark_best(columns: Sequence[Column], rows: list[list[Cell]], places: Sequence[int]) -> None:
    """Bold in every column of scores; equal as shown is equal."""
    for at, column in enumerate(columns):
        if column.joined or column.spare == FIRST or column.title in COSTS:
            continue
        found = {i: cell for i in places if isinstance(cell := rows[i][at], Number)}
        values = {i: round(c.value, c.digits) for i, c in found.items() if c.value is not None}
        if len(values) < 2:
            continue
        best = (min if column.title == "forgotten" else max)(values.values())
        for i, value in values.items():
            if value == best:
                rows[i][at] = replace(found[i], best=True)


def lost_table(found: Standings) -> Table:
    """Every benchmark before and after, for every method: what was lost, what was gained."""
    caption = "General's benchmarks before training and after the last stage."
    return _changes("lost", "benchmark", caption, [(m.label, m.changes) for m in found.methods])


def tasks_table(found: Standings) -> Table:
    """Every stage task right after its own stage and after the last."""
    caption = "Stage tasks right after their own stage and after the last stage."
    return _changes("tasks", "task", caption, [(m.label, m.task_changes) for m in found.methods])


def _changes(
    name: str, what: str, caption: str, methods: Sequence[tuple[str, Sequence[Change]]]
) -> Table:
    columns = [
        Column("method", "left"),
        Column(what, "left"),
        Column("n"),
        Column("before"),
        Column("after"),
        Column("change"),
        Column("95 % interval"),
        Column("forgotten"),
        Column("learned"),
        Column("verdict", "left"),
    ]
    rows = [[label, *_lost_row(change)] for label, changes in methods for change in changes]
    return Table(name, columns, rows, caption, labels=2)


def _lost_row(change: Change) -> list[Cell]:
    compared = change.difference.compared
    interval: Cell = "-"
    if compared and compared.comparison.low is not None and compared.comparison.high is not None:
        low, high = compared.comparison.low, compared.comparison.high
        interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
    counts = change.documents or (None, None)
    return [
        short(change.benchmark),
        str(change.n),
        Number(100 * change.before),
        Number(100 * change.after),
        gap(change.difference),
        interval,
        *(Number(count, 0 if count is None or count == int(count) else 1) for count in counts),
        change.verdict,
    ]
