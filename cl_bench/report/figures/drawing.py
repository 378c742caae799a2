"""Figures of a report beside it, drawn where what they show has changed; or one by name."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from cl_bench.errors import RunError, UserError
from cl_bench.report.document import Figure
from cl_bench.report.figures.files import FIGURES, save
from cl_bench.report.figures.kinds import KINDS, Kind
from cl_bench.report.figures.source import Source
from cl_bench.report.figures.style import styled
from cl_bench.report.overview import Overview
from cl_bench.store.file_errors import what_failed
from cl_bench.terminal import say

GROUPS = 3
"""Tables of a report that have figures, the first ones."""
HEAD = 2048
"""Characters of an .svg in which its key stands."""


def sources(overview: Overview) -> list[Source]:
    """Of every group of experiments."""
    return [
        Source(group, found, [str(view.main.rows[place][0]) for place in view.methods_first])
        for group, found, view in zip(overview.groups, overview.found, overview.views, strict=True)
    ]


def draw_figures(overview: Overview, folder: Path, stem: str) -> list[Figure]:
    """Draw what there is data for, as .svg in `STEM-figures`; returns links from `folder`.

    A figure whose data is the same as when it was drawn is left as it is, and one whose data is
    gone is deleted. Damaged files are added to the overview's faults; a folder that cannot be
    written is said.
    """
    place = folder / f"{stem}{FIGURES}"
    found: list[Figure] = []
    names: set[str] = set()
    try:
        for number, source in enumerate(sources(overview)[:GROUPS], 1):
            for kind in KINDS:
                name = kind.name if number == 1 else f"{kind.name}-{number}"
                if _drawn(kind, source, place / f"{name}.svg"):
                    names.add(name)
                    heading = overview.views[number - 1].heading
                    shows = f"{heading}: {kind.shows}" if heading else kind.shows
                    found.append(Figure(shows, f"{place.name}/{name}.svg"))
            overview.faults += [fault for fault in source.faults if fault not in overview.faults]
        _tidy(place, names)
    except OSError as error:
        say(f"cl-bench: warning: {place}: figures were not drawn ({what_failed(error)})")
    return found


def _drawn(kind: Kind, source: Source, file: Path) -> bool:
    """Whether the figure is there when this returns."""
    find = kind.find_for_report
    data = None if find is None else source.read(lambda: find(source))
    if data is None:
        return False
    key = hashlib.sha256(f"{_code()}\n{kind.name}\n{data!r}".encode()).hexdigest()
    if file.is_file() and key in _head(file):
        return True
    file.parent.mkdir(exist_ok=True)
    with styled():
        figure = source.read(lambda: kind.draw(data))
        if figure is not None:
            save(figure, file, key)
    return figure is not None


def _head(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as opened:
        return opened.read(HEAD)


@cache
def _code() -> str:
    """Of what draws: other code draws again."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _tidy(place: Path, names: set[str]) -> None:
    """Figures of ours that are not of this report go; other files stay."""
    ours = "|".join(kind.name for kind in KINDS)
    for file in place.glob("*.svg"):
        if file.stem not in names and re.fullmatch(rf"({ours})(-\d+)?", file.stem):
            file.unlink()


def draw_one(overview: Overview, name: str, file: Path) -> None:
    """Write a figure by its name, of the first group; damaged files are added to the faults.

    Raises UserError where its data lacks, RunError where no experiment can be read.
    """
    if not overview.groups:
        raise RunError("\n  ".join(overview.faults))
    (kind,) = [kind for kind in KINDS if kind.name == name]
    first, *others = sources(overview)
    data = kind.find(first)
    if data is None:
        names = ", ".join(each.name for each in first.group.experiments)
        raise UserError(f"--figure {name}: nothing to draw in {names}: it needs {kind.needs}")
    with styled():
        save(kind.draw(data), file)
    for source in others:
        names = ", ".join(each.name for each in source.group.experiments)
        say(f"cl-bench: not in the figure: {names} ({'; '.join(source.group.apart[:2])})")
    overview.faults += [fault for fault in first.faults if fault not in overview.faults]
