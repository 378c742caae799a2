"""A report in Markdown: within a width, and as a first screen within a number of lines."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from cl_bench.report.document import (
    Block,
    Bullets,
    Cell,
    Figure,
    Heading,
    Number,
    Paragraph,
    Table,
    text_of,
)
from cl_bench.report.tables import escaped, table

WIDTH = 100


def markdown(blocks: Sequence[Block], width: int | None = WIDTH, screen: bool = True) -> list[str]:
    """Lines; tables that are wider are split between columns, with None never.

    `screen`: as few lines as can be, at most `width` wide: sentences are wrapped, and pipes stand
    without spaces where there is no room for them.
    """
    lines: list[str] = []
    width = width or sys.maxsize
    for block in blocks:
        # A heading needs no empty line below it, anything else one between it and a table.
        if lines and not (lines[-1].startswith("#") and screen):
            lines.append("")
        lines += _lines(block, width, screen)
    return lines


def _lines(block: Block, width: int, screen: bool) -> Iterator[str]:
    if isinstance(block, Heading):
        yield f"{'#' * block.level} {block.text}"
    elif isinstance(block, Paragraph):
        yield from _wrapped(block.text, width) if screen else block.text.split("\n")
    elif isinstance(block, Bullets):
        for line in block.lines:
            yield from _wrapped(f"- {line}", width, "  ") if screen else [f"- {line}"]
    elif isinstance(block, Figure):
        yield f"![{block.alt}]({block.file})"
    else:
        for place, part in enumerate(split(block, width, screen)):
            if place:
                yield ""
            yield from _table(part, width, screen)


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    # No line may begin with what Markdown reads as the mark of a list.
    for mark in "-+*":
        text = text.replace(f" {mark} ", f" {mark}\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def split(whole: Table, width: int, screen: bool = True) -> list[Table]:
    """Parts of at most `width` characters, each with the label columns; fewer where it can be."""
    between = 1 if screen else 3
    sizes = [_size(whole, place, screen) + between for place in range(len(whole.columns))]
    labels = list(range(whole.labels))
    rest = list(range(whole.labels, len(whole.columns)))
    fixed = [place for place in rest if not whole.columns[place].floats]
    orders = [rest]
    if floating := [place for place in rest if whole.columns[place].floats]:
        ends = [i for i, p in enumerate(fixed) if not whole.columns[p].joined]
        orders += [[*fixed[:i], *floating, *fixed[i:]] for i in ends]
    found = [_parts(whole, labels, order, sizes, width) for order in orders]
    best = min(found, key=len)  # the first of those with fewest
    return [whole.of_columns([*labels, *part]) for part in best]


def _parts(
    whole: Table, labels: list[int], order: list[int], sizes: list[int], width: int
) -> list[list[int]]:
    """Columns of each part, filled from the left."""
    together: list[list[int]] = []
    for place in order:
        if together and whole.columns[place].joined:
            together[-1].append(place)
        else:
            together.append([place])
    parts: list[list[int]] = [[]]
    for places in together:
        taken = [*labels, *parts[-1], *places]
        if parts[-1] and sum(sizes[i] for i in taken) + 1 > width:
            parts.append([])
        parts[-1] += places
    return parts


def _size(whole: Table, place: int, screen: bool) -> int:
    cells = [shown(row[place], screen) for row in whole.rows]
    least = 3 if whole.columns[place].align == "left" else 4
    return max(least, *(cell_len(escaped(t)) for t in [whole.columns[place].title, *cells]))


def _table(part: Table, width: int, screen: bool) -> Iterator[str]:
    """With spaces around the pipes where there is room for them."""
    rows = [[shown(cell, screen) for cell in row] for row in part.rows]
    lines = list(table(part.columns, rows))
    room = not screen or cell_len(lines[0]) <= width
    yield from lines if room else table(part.columns, rows, tight=True)


def shown(cell: Cell, screen: bool = True) -> str:
    """`**-1.2±0.3**` on a screen, else `**-1.2 ± 0.3**`; of seeds it is said elsewhere or here."""
    if not isinstance(cell, Number):
        return cell
    text = cell.text("±") if screen else text_of(cell)
    return f"**{text}**" if cell.best else text
