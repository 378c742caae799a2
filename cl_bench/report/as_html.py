"""A report as one HTML file: every table sortable, figures inside, and a browser of documents."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from cl_bench.report.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Figure,
    Heading,
    Number,
    Paragraph,
    Table,
    text_of,
)
from cl_bench.report.document_browser import Reading, document_browser
from cl_bench.report.figures.files import FIGURES
from cl_bench.report.full import full_blocks
from cl_bench.report.html_page import data_script, escape, page, rich_text, shipped
from cl_bench.report.overview import Overview, closing_blocks, overview_blocks
from cl_bench.report.provenance import provenance

LARGEST_FIGURE = 4 << 20
"""Bytes; larger ones are named and not embedded."""
LONG = 40
"""Characters of a text that are wrapped in a wide column."""
SHADED = "matrix"
"""The table whose scores have a background that is darker the higher they are."""
_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Part:
    """Blocks that belong together, and the folder that their figures are in."""

    blocks: Sequence[Block]
    folder: Path
    folded: bool = False
    """Whether its sections are closed until they are asked for."""
    all_figures: bool = False
    """Whether figures of the folder that reports did not draw come at its end."""


@dataclass
class _Contents:
    """Sections so far, for the list at the top."""

    sections: list[tuple[str, str]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def add(self, text: str) -> str:
        name = f"s{next(self.numbers)}"
        self.sections.append((name, text))
        return name


def as_html(title: str, parts: Sequence[Part], browser: dict[str, Any] | None = None) -> str:
    """The file. `browser`: what `document_browser` found; None leaves the documents out."""
    contents = _Contents()
    inner: list[str] = []
    for place, part in enumerate(parts):
        inner += _part(part, contents)
        if place == 0 and browser is not None:
            inner += _browser(browser, contents.add("Documents"))
    links = [f'<li><a href="#{n}">{rich_text(text)}</a></li>' for n, text in contents.sections]
    top = [f"<header><h1>{escape(title)}</h1>"]
    if len(links) > 1:
        top.append('<nav><details class="contents"><summary>Contents</summary>')
        top.append(f"<ul>{''.join(links)}</ul></details></nav>")
    body = [*top, "</header>\n<main>", *inner, "</main>"]
    return page(f"{title} - cl-bench report", body, shipped("report.css"), shipped("report.js"))


def report_page(
    overview: Overview, figures: Sequence[Block], place: Path, read: Reading | None = None
) -> str:
    """All that there is of these experiments; `read` finds the words of documents.

    `figures`: their section, with links from the folder `place`.
    """
    opened = overview.opened
    browser = document_browser(opened, read)
    parts = [Part([*overview_blocks(overview), *figures], place)]
    for each in opened:
        parts.append(Part(list(full_blocks(each)), each.folder, folded=True, all_figures=True))
    parts.append(Part(list(provenance(opened)), opened[0].folder, folded=True))
    parts.append(Part(closing_blocks(overview), opened[0].folder))
    return as_html(overview.title(), parts, browser)


def _part(part: Part, contents: _Contents) -> Iterator[str]:
    opened = False
    shown: set[str] = set()
    for block in part.blocks:
        if isinstance(block, Heading) and block.level == 2:
            yield from ["</details></section>" if part.folded else "</section>"] if opened else []
            yield _opening(block.text, contents, part.folded)
            opened = True
        elif isinstance(block, Figure):
            shown.add(Path(block.file).stem)
            yield _figure(block.alt, part.folder / block.file)
        else:
            yield from _block(block)
    if opened:
        yield "</details></section>" if part.folded else "</section>"
    if part.all_figures:
        yield from _other_figures(part.folder, shown, contents)


def _opening(text: str, contents: _Contents, folded: bool) -> str:
    name = contents.add(text)
    heading = f"<h2>{rich_text(text)}</h2>"
    if folded:
        return f'<section id="{name}"><details><summary>{heading}</summary>'
    return f'<section id="{name}">{heading}'


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Heading):
        yield f"<h{block.level}>{rich_text(block.text)}</h{block.level}>"
    elif isinstance(block, Paragraph):
        yield f"<p>{rich_text(block.text)}</p>"
    elif isinstance(block, Bullets):
        yield f"<ul>{''.join(f'<li>{rich_text(line)}</li>' for line in block.lines)}</ul>"
    elif isinstance(block, Table):
        yield from _table(block)


def _table(table: Table) -> Iterator[str]:
    yield f'<div class="wide" tabindex="0"><table data-name="{escape(table.name)}">'
    if table.caption:
        yield f"<caption><span>{rich_text(table.caption)}</span></caption>"
    heads = "".join(map(_head, table.columns))
    yield f"<thead><tr>{heads}</tr></thead>\n<tbody>"
    for row in table.rows:
        cells = []
        for place, (cell, column) in enumerate(zip(row, table.columns, strict=True)):
            shaded = table.name == SHADED and place >= table.labels
            cells.append(_cell(cell, column, place < table.labels, shaded))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _head(column: Column) -> str:
    side = "" if column.align == "left" else ' class="n"'
    return f'<th scope="col"{side}><button type="button">{escape(column.title)}</button></th>'


def _cell(cell: Cell, column: Column, label: bool, shaded: bool) -> str:
    """With the value itself to sort by, and what a sign stands for as its title."""
    classes = [] if column.align == "left" else ["n"]
    rest = ""
    text = escape(text_of(cell))
    if isinstance(cell, Number):
        rest = "" if cell.value is None else f' data-value="{cell.value!r}"'
        if cell.resolved is False:
            rest += ' title="not resolved"'
            classes.append("unresolved")
        if cell.best:
            text = f"<strong>{text}</strong>"
        if shaded and cell.value is not None:
            classes.append(f"shade{min(10, max(0, round(cell.value / 10)))}")
    elif len(cell) > LONG:
        classes.append("long")
    kind = f' class="{" ".join(classes)}"' if classes else ""
    name = 'th scope="row"' if label else "td"
    return f"<{name}{kind}{rest}>{text}</{name.split()[0]}>"


def _figure(alt: str, file: Path) -> str:
    """As data, the drawing rather than the picture where both are there."""
    found = next((f for f in (file.with_suffix(".svg"), file) if f.is_file()), None)
    if found is None or found.suffix not in _TYPES:
        return f"<p>Figure: {escape(file.name)} is not there.</p>"
    if found.stat().st_size > LARGEST_FIGURE:
        return f"<p>Figure: {escape(found.name)} is too large to stand in this file.</p>"
    data = base64.b64encode(found.read_bytes()).decode("ascii")
    # Never shrunk, or its words were too small on a telephone: there it is scrolled.
    kind = ' class="drawn" tabindex="0"' if file.parent.name.endswith(FIGURES) else ""
    return (
        f'<figure{kind}><img alt="{escape(alt)}" src="data:{_TYPES[found.suffix]};base64,{data}">'
        f"<figcaption>{escape(alt)}</figcaption></figure>"
    )


def _other_figures(folder: Path, shown: set[str], contents: _Contents) -> Iterator[str]:
    drawn = (
        file
        for kind in _TYPES
        for file in folder.glob(f"**/*{kind}")
        if file.stem not in shown and not file.parent.name.endswith(FIGURES)
    )
    inside = {str(f.relative_to(folder).with_suffix("")): f for f in sorted(drawn)}
    if inside:
        yield _opening(f"Figures in {folder.name}", contents, folded=False)
        yield from (_figure(name, file) for name, file in inside.items())
        yield "</section>"


def _browser(data: dict[str, Any], name: str) -> Iterator[str]:
    yield f'<section id="{name}"><h2>Documents</h2>'
    if not data["experiments"]:
        yield (
            "<p>The records of single documents (<code>predictions/</code>) are not in these "
            "folders.</p></section>"
        )
        return
    yield from (f"<p>{rich_text(note)}</p>" for note in data["notes"])
    yield '<form class="tools" id="tools">'
    for each, label in (
        ("experiment", "Experiment"),
        ("run", "Method"),
        ("task", "Task"),
        ("before", "Then"),
        ("after", "Now"),
        ("what", "Show"),
    ):
        yield f'<label>{label} <select id="{each}"></select></label>'
    yield '<label>Text <input id="words" type="search"></label></form>'
    yield '<p><output id="count"></output></p><div id="documents"></div>'
    yield '<p><button type="button" id="more">More</button></p>'
    yield "<noscript><p>Documents are shown by a script.</p></noscript>"
    yield f"{data_script('data', data)}</section>"
