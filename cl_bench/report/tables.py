"""Markdown tables, and numbers in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from cl_bench.report.document import Column, percent, text_of
from cl_bench.scores.uncertainty import Comparison

__all__ = ["Column", "code", "escaped", "interval", "percentages", "table"]


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], tight: bool = False
) -> Iterator[str]:
    """Lines of a Markdown table, padded so that it also reads well as plain text.

    Cells may hold any text: pipes are escaped and line ends become spaces. Every rule has three
    dashes at least, without which some readers see no table. `tight`: no spaces around the pipes.
    """
    texts = [[escaped(text) for text in row] for row in ([c.title for c in columns], *rows)]
    left, between, right = ("|", "|", "|") if tight else ("| ", " | ", " |")
    widths = [
        max(3 if column.align == "left" else 4, *(cell_len(row[i]) for row in texts))
        for i, column in enumerate(columns)
    ]

    def line(cells: Sequence[str]) -> str:
        padded = []
        for cell, width, column in zip(cells, widths, columns, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(cell + space if column.align == "left" else space + cell)
        return f"{left}{between.join(padded)}{right}"

    yield line(texts[0])
    rules = [
        "-" * width if column.align == "left" else "-" * (width - 1) + ":"
        for width, column in zip(widths, columns, strict=True)
    ]
    yield f"{left}{between.join(rules)}{right}"
    for row in texts[1:]:
        yield line(row)


def escaped(text: str) -> str:
    """A text that stays within its cell: one line, every pipe escaped once."""
    return re.sub(r"(\\*)\|", lambda found: found[1] * 2 + r"\|", " ".join(text.split()))


def code(text: str) -> str:
    """A text as Markdown's code, whatever signs it holds: `x`, or between longer fences."""
    fence = "`" * (1 + max(map(len, re.findall("`*", text))))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"


def interval(compared: Comparison, scale: float = 100.0, digits: int = 2) -> list[str]:
    """Difference, 95 % interval and whether it resolves an ordering, times `scale`."""

    def text(value: float) -> str:
        return f"{scale * value:+.{digits}f}"

    if compared.low is None or compared.high is None:
        return [text(compared.difference), "-", "not resolved"]
    ordering = "resolved" if compared.resolved else "not resolved"
    return [text(compared.difference), f"{text(compared.low)} to {text(compared.high)}", ordering]


def percentages(measures: Sequence[Mapping[str, Any]], signed: bool = False) -> str:
    """`percent` in words: `-` when any of the values is not measured."""
    return text_of(percent(measures, signed))
