"""A report as text in one of the formats, and written beside the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cl_bench.errors import RunError, UserError, nearest
from cl_bench.report.as_data import as_csv, as_json
from cl_bench.report.as_html import Part, as_html, report_page
from cl_bench.report.as_latex import as_latex
from cl_bench.report.as_markdown import WIDTH, markdown
from cl_bench.report.document import Block, Figure, Heading, Table
from cl_bench.report.document_browser import Reading
from cl_bench.report.figures.drawing import draw_figures
from cl_bench.report.overview import (
    Overview,
    all_blocks,
    default_place,
    read_overview,
    screen_blocks,
    tables_of,
)
from cl_bench.results.groups import Chosen
from cl_bench.results.places import Place
from cl_bench.store.file_errors import what_failed
from cl_bench.store.folders import write_text
from cl_bench.store.once import each_file_once
from cl_bench.terminal import columns, say

Format = Literal["md", "latex", "csv", "json", "html"]
SUFFIXES: dict[Format, str] = {
    "md": "md",
    "latex": "tex",
    "csv": "csv",
    "json": "json",
    "html": "html",
}
ON_FIRST = ("main", "lost")
"""Tables that a first screen has."""


@dataclass(frozen=True)
class Wanted:
    """What to print."""

    format: Format = "md"
    table: str | None = None
    full: bool = False
    baseline: str | None = None
    texts: bool = False
    """Of HTML: whether documents have their words, which are read from the data again."""
    data_root: Path | None = None
    """Where the data is; the experiment's own by default."""
    figures: bool = False
    """Of Markdown and HTML: draw what there is data for, and link it or put it in."""


@dataclass(frozen=True)
class Written:
    """A report's text, where it is, and which files could not be read."""

    text: str
    file: Path
    faults: Sequence[str]


def write_report(
    chosen: Sequence[Chosen], results: Path, wanted: Wanted | None = None, width: int | None = None
) -> Written:
    """Make a report and write it beside the results; where that fails it is still returned.

    `width`: of the terminal that the text is returned for; None as the file has it. Raises
    RunError where no experiment can be read, UserError for a table that there is not.
    """
    wanted = wanted or Wanted()
    with each_file_once():
        html = wanted.format == "html"
        whole = wanted.full or html or wanted.table not in (None, *ON_FIRST)
        overview = read_overview(chosen, wanted.baseline, whole)
        if not overview.groups:
            raise RunError("\n  ".join(overview.faults))
        folder, stem = default_place(overview, results)
        parts = [
            stem,
            *(["full"] if wanted.full and not html else []),
            *([wanted.table] if wanted.table else []),
        ]
        file = folder / f"{'-'.join(parts).replace(' ', '-')}.{SUFFIXES[wanted.format]}"
        figures: list[Figure] = []
        if wanted.figures and wanted.format in ("md", "html") and wanted.table is None:
            figures = draw_figures(overview, folder, stem)
        kept, shown = _texts(overview, wanted, whole, file, width, figures)
    try:
        write_text(file, kept)
        if not html:  # of which the path is all that is printed
            say(f"cl-bench: written: {file}")
    except OSError as error:
        if html:  # nobody reads it in a terminal
            raise RunError(f"{file}: not written ({what_failed(error)})") from error
        say(f"cl-bench: warning: {file.name} was not written ({what_failed(error)})")
    return Written(shown, file, overview.faults)


def print_report(
    chosen: Sequence[Chosen], results: Path, wanted: Wanted | None = None
) -> Sequence[str]:
    """Write and print one, as wide as the terminal; returns which files could not be read."""
    made = write_report(chosen, results, wanted, columns())
    print(made.text, end="")
    return made.faults


def _texts(
    overview: Overview,
    wanted: Wanted,
    whole: bool,
    file: Path,
    width: int | None,
    figures: Sequence[Figure],
) -> tuple[str, str]:
    """For the file and for the screen, which has no figures."""
    links: list[Block] = [Heading("Figures"), *figures] if figures else []
    if wanted.format == "md" and wanted.table is None and not wanted.full:
        blocks = screen_blocks(overview, f"{file.stem}-full.md")
        return _text(markdown([*blocks, *links])), _text(markdown(blocks, width or WIDTH))
    if wanted.format == "json":
        tables = _tables(overview, wanted, whole=wanted.full or wanted.table is not None)
        text = as_json(tables, overview)
    elif wanted.format == "csv":
        text = as_csv(_tables(overview, wanted, whole, only="main"))
    elif wanted.format == "html":
        return _html(overview, wanted, whole, links, file.parent), f"{file}\n"
    elif wanted.format == "latex":
        text = as_latex(_tables(overview, wanted, whole))
    else:
        blocks = _tables(overview, wanted, whole) if wanted.table else all_blocks(overview)
        kept = _text(markdown([*blocks, *links], None, screen=False))
        return kept, _text(markdown(blocks, width, screen=False))
    return text, text


def _html(
    overview: Overview, wanted: Wanted, whole: bool, figures: Sequence[Block], folder: Path
) -> str:
    if wanted.table is not None:
        blocks = _tables(overview, wanted, whole)
        return as_html(overview.title(), [Part(blocks, overview.opened[0].folder)])
    read = _rereading(wanted.data_root) if wanted.texts else None
    return report_page(overview, figures, folder, read)


def _rereading(data_root: Path | None) -> Reading:
    from cl_bench.experiment.reread import reread  # loads lm-eval, for the words alone

    return lambda folder, ids: reread(Place(folder), ids, data_root)


def _tables(
    overview: Overview, wanted: Wanted, whole: bool, only: str | None = None
) -> list[Block]:
    """Those that are wanted; where none is named all, or `only`."""
    tables: list[Table] = tables_of(overview, whole)
    name = wanted.table or (None if wanted.full else only)
    if name is None:
        return list(tables)
    found: list[Block] = [table for table in tables if table.name == name]
    if not found:
        names = [table.name for table in tables_of(overview, full=True)]
        raise UserError(f"--table {name}: no such table in this report{nearest(name, names)}")
    return found


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
