"""Markdown tables, and numbers in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal


@dataclass(frozen=True)
class Column:
    """Heading and alignment."""

    title: str
    align: Literal["left", "right"] = "right"


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table, padded so that it also reads well as plain text."""
    texts = [[column.title for column in columns], *rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column.align == "left" else cell.rjust(width)
            for cell, width, column in zip(cells, widths, columns, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    yield line(texts[0])
    rules = [
        "-" * width if column.align == "left" else "-" * (width - 1) + ":"
        for width, column in zip(widths, columns, strict=True)
    ]
    yield f"| {' | '.join(rules)} |"
    for row in rows:
        yield line(row)


def number(measures: Sequence[Mapping[str, Any]], signed: bool = False) -> str:
    """`value` (0-1) of each seed as a percentage with its uncertainty.

    One seed: ± the standard error over documents. Several: the mean ± the standard deviation over
    seeds. `-` when any of them is not measured.
    """
    values = [measure["value"] for measure in measures]
    if not values or any(value is None for value in values):
        return "-"
    text = f"{100 * fmean(values):{'+' if signed else ''}.1f}"
    if len(values) > 1:
        return f"{text} ± {100 * stdev(values):.1f} (sd)"
    stderr = measures[0].get("stderr")
    return text if stderr is None else f"{text} ± {100 * stderr:.1f}"
