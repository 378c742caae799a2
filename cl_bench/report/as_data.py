"""A report's tables as CSV and JSON: numbers as they are, not as they are shown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from cl_bench.report.document import Block, Cell, Column, Number, Table
from cl_bench.report.overview import Overview, terms


def as_csv(blocks: Sequence[Block]) -> str:
    """One table of all that are given, which have the same columns but for those of some groups.

    A number has a column more for what ± stands for (`spread`) and, of differences, `resolved`.
    """
    tables = [block for block in blocks if isinstance(block, Table)]
    rows = [row for table in tables for row in _records(table, len(tables) > 1)]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _records(table: Table, several: bool) -> Iterator[dict[str, Any]]:
    columns = _named(table.columns)
    kinds = [[row[i] for row in table.rows] for i in range(len(columns))]
    for row in table.rows:
        found: dict[str, Any] = {"table": table.caption or table.name} if several else {}
        for name, cell, kind in zip(columns, row, kinds, strict=True):
            if not isinstance(cell, Number):
                found[name] = _value(cell, kind)
                continue
            found[name] = "" if cell.value is None else _exact(cell.value)
            if any(isinstance(each, Number) and each.spread is not None for each in kind):
                found[f"{name}_spread"] = "" if cell.spread is None else _exact(cell.spread)
                found[f"{name}_spread_of"] = cell.of
            if any(isinstance(each, Number) and each.resolved is not None for each in kind):
                found[f"{name}_resolved"] = "" if cell.resolved is None else cell.resolved
        yield found


def _value(cell: Cell, column: Sequence[Cell]) -> str:
    """A text; empty where a number would stand."""
    numbers = any(isinstance(each, Number) for each in column)
    return "" if numbers and cell == "-" else str(cell)


def _exact(value: float) -> float:
    """Ten digits: more are of rounding."""
    return float(f"{value:.10g}")


def _named(columns: Sequence[Column]) -> list[str]:
    """Names for data, which no two columns share."""
    names = [column.name for column in columns]
    return [
        name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def as_json(blocks: Sequence[Block], overview: Overview) -> str:
    """All tables with their rows by column, what kept groups apart, terms and faults."""
    tables = [block for block in blocks if isinstance(block, Table)]
    return (
        json.dumps(
            {
                "experiments": [
                    {"name": e.name, "folder": str(e.folder), "model": e.config["model"]}
                    for e in overview.opened
                ],
                "groups": [
                    {
                        "experiments": [e.name for e in group.experiments],
                        "apart": group.apart,
                        "baseline": found.baseline,
                        "comparisons": found.comparisons,
                        "paired": found.paired,
                        "left_out": found.left_out,
                        "about": list(view.about),
                        "remarks": list(view.remarks),
                        "smallest_difference": view.shown_difference,
                    }
                    for group, found, view in zip(
                        overview.groups, overview.found, overview.views, strict=True
                    )
                ],
                "tables": [_table(table) for table in tables],
                "terms": list(terms(overview)),
                "damaged": overview.faults,
            },
            indent=1,
            ensure_ascii=False,
            allow_nan=False,
        )
        + "\n"
    )


def _table(table: Table) -> dict[str, Any]:
    names = _named(table.columns)
    rows = [
        {name: _cell(cell) for name, cell in zip(names, row, strict=True)} for row in table.rows
    ]
    return {"name": table.name, "caption": table.caption, "columns": names, "rows": rows}


def _cell(cell: Cell) -> Any:
    if not isinstance(cell, Number):
        return cell
    found: dict[str, Any] = {"value": None if cell.value is None else _exact(cell.value)}
    if cell.spread is not None:
        found |= {"spread": _exact(cell.spread), "spread_of": cell.of}
    if cell.resolved is not None:
        found["resolved"] = cell.resolved
    return found | ({"best": True} if cell.best else {})
