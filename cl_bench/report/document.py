"""What a report says, before any format: headings, sentences, tables of numbers, figures.

Builders (`main_table`, `probes`, ...) make blocks; `as_markdown`, `as_latex` and `as_data` render
them. A number keeps its value and what is known of it, so that a format can write it its own way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any, Literal

Spread = Literal["documents", "seeds", ""]
"""What ± is: a standard error over documents, or a standard deviation over seeds."""


@dataclass(frozen=True)
class Number:
    """A number as it is shown: in percent, nats, times of sft, ..."""

    value: float | None
    digits: int = 1
    signed: bool = False
    spread: float | None = None
    of: Spread = ""
    resolved: bool | None = None
    """Of a difference, whether it is one after correction; False is marked."""
    best: bool = False
    """Whether no method has a better one."""

    def text(self, plus_minus: str = " ± ") -> str:
        """`-1.2 ± 0.3`; `-` where it is not measured."""
        if self.value is None:
            return "-"
        shown = f"{self.value:{'+' if self.signed else ''}.{self.digits}f}"
        if self.spread is not None:
            shown += f"{plus_minus}{self.spread:.{self.digits}f}"
        return shown + ("?" if self.resolved is False else "")


Cell = str | Number


@dataclass(frozen=True)
class Column:
    """Heading and alignment."""

    title: str
    align: Literal["left", "right"] = "right"
    key: str = ""
    """Name in data formats; the title unless given."""
    spare: int = 0
    """From 1: may be left out of a first screen that has no room, the lowest first."""
    joined: bool = False
    """Stays with the column to its left where a table is split."""
    floats: bool = False
    """May stand further right where fewer parts come of it."""

    @property
    def name(self) -> str:
        """For data formats."""
        return self.key or self.title


@dataclass(frozen=True)
class Heading:
    """Of a section (level 2) or a part of it (3); 1 is the report's own."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Sentences, in which Markdown's code spans and bold may stand."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """Lines of a list, as `Paragraph`."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Figure:
    """A file beside the report."""

    alt: str
    file: str


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns. `name` is what `--table` calls it."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    """A sentence for formats that print the table alone."""
    labels: int = 1
    """How many columns on the left say what a row is: repeated where a table is split."""

    def of_rows(self, wanted: Iterable[int]) -> Table:
        """Some of the rows, in their order."""
        return replace(self, rows=[self.rows[place] for place in sorted(wanted)])

    def of_columns(self, wanted: Iterable[int]) -> Table:
        """The same rows with some of the columns."""
        places = list(wanted)
        rows = [[row[i] for i in places] for row in self.rows]
        return replace(self, columns=[self.columns[i] for i in places], rows=rows)


Block = Heading | Paragraph | Bullets | Figure | Table


@dataclass(frozen=True)
class Report:
    """All blocks in order."""

    blocks: Sequence[Block]
    about: Mapping[str, Any] = field(default_factory=dict)
    """What data formats say beside the tables: experiments, versions, faults."""

    def tables(self, name: str) -> list[Table]:
        """Those of a name, one for each group or run."""
        return [block for block in self.blocks if isinstance(block, Table) and block.name == name]

    def names(self) -> list[str]:
        """Of all tables, once each, in order."""
        return list(dict.fromkeys(b.name for b in self.blocks if isinstance(b, Table)))


def percent(measures: Sequence[Mapping[str, Any]], signed: bool = False) -> Number:
    """`value` (0-1) of each seed as a percentage with its uncertainty.

    One seed: ± the standard error over documents. Several: the mean ± the standard deviation over
    seeds. Not measured when any of them is not.
    """
    values = [measure["value"] for measure in measures]
    if not values or any(value is None for value in values):
        return Number(None)
    shown = Number(100 * fmean(values), signed=signed)
    if len(values) > 1:
        return replace(shown, spread=100 * stdev(values), of="seeds")
    stderr = measures[0].get("stderr")
    return shown if stderr is None else replace(shown, spread=100 * stderr, of="documents")


def text_of(cell: Cell) -> str:
    """A cell in words, as tables print it; ± of seeds is named."""
    if isinstance(cell, str):
        return cell
    return cell.text() + (" (sd)" if cell.of == "seeds" and cell.value is not None else "")
