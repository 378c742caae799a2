"""As much of a report as a screen holds: which rows stay, and how many are not shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from cl_bench.report.as_markdown import WIDTH, markdown
from cl_bench.report.document import Block, Heading, Number, Paragraph, Table

LINES = 40
LEAST_LOST, LEAST_METHODS = 4, 3
"""Rows that give way to others last."""
LEVELS = 2
"""Of columns that can be spared."""


@dataclass(frozen=True)
class GroupView:
    """What is said of one group, apart from its sections."""

    heading: str
    about: Sequence[str]
    """Sentences above the tables."""
    main: Table
    methods_first: Sequence[int]
    """Rows of the main table, those to keep first."""
    remarks: Sequence[str]
    """Sentences below the main table."""
    lost: Table
    lost_first: Sequence[int]
    shown_difference: str
    """The smallest one that could be shown, in a sentence."""

    def blocks(self) -> list[Block]:
        """All rows."""
        return self.some(len(self.main.rows), len(self.lost.rows))

    def some(self, methods: int, lost: int) -> list[Block]:
        """With so many rows of the two tables."""
        found: list[Block] = [Heading(self.heading)] if self.heading else []
        found += [Paragraph(" ".join(self.about))] if self.about else []
        found.append(self.main.of_rows(self.methods_first[:methods]))
        found += [Paragraph(" ".join(self.remarks))] if self.remarks else []
        if self.lost.rows and lost:
            found.append(Heading("Lost and gained, by benchmark", 3 if self.heading else 2))
            found.append(self.lost.of_rows(self.lost_first[:lost]))
        if self.shown_difference and (lost or not self.lost.rows):
            found.append(Paragraph(self.shown_difference))
        return found


@dataclass(frozen=True)
class Hidden:
    """How much of it is not on the first screen."""

    methods: int = 0
    changes: int = 0
    groups: int = 0
    columns: Sequence[str] = field(default_factory=tuple)


Closing = Callable[[Hidden], list[Block]]
"""What stands below: how much is not shown and where it is, and the terms."""


@dataclass
class _Cut:
    """Rows that each group may have at most, and groups."""

    methods: int
    lost: int
    groups: int
    spare: int = 0
    """The level up to which spare columns are left out."""


def first_screen(
    title: Sequence[Block],
    views: Sequence[GroupView],
    closing: Closing,
    lines: int = LINES,
    width: int = WIDTH,
) -> list[Block]:
    """Blocks that take at most `lines` lines of `width` characters, as many rows as there is room.

    What gives way: changes of benchmarks, down to a few; columns that can be spared, those of the
    first level and, where that shows more methods, of the second; methods; whole groups, the last
    first. What turns out to fit in the end comes back.
    """
    most = _Cut(
        min(lines, max(len(view.main.rows) for view in views)),
        min(lines, max(len(view.lost.rows) for view in views)),
        len(views),
    )

    def over(cut: _Cut) -> int:
        return len(markdown(_blocks(title, views, closing, cut), width)) - lines

    cut = min(
        (_fitting(replace(most, spare=level), over) for level in range(LEVELS + 1)),
        key=lambda cut: (-cut.groups, -min(cut.methods, most.methods), cut.spare),
    )
    for more in _longer(most):  # what did not have to go for the last step
        while (larger := more(cut)) is not None and over(larger) <= 0:
            cut = larger
    return _blocks(title, views, closing, cut)


def _fitting(cut: _Cut, over: Callable[[_Cut], int]) -> _Cut:
    """The first that fits, with the columns that it has; the smallest if none does."""
    while (lines := over(cut)) > 0 and _shorter(cut, lines):
        pass
    return cut


def _shorter(cut: _Cut, lines: int) -> bool:
    """Take away rows that are missed least, for so many lines at most; False where none is left."""
    if cut.lost > LEAST_LOST:
        cut.lost = max(LEAST_LOST, cut.lost - -(-lines // cut.groups))
    elif cut.methods > LEAST_METHODS:
        # A method has a line in every part of the table, and there are seldom more than three.
        cut.methods = max(LEAST_METHODS, cut.methods - max(1, lines // (3 * cut.groups)))
    elif cut.lost:
        cut.lost -= 1
    elif cut.groups > 1:
        cut.groups -= 1
    elif cut.methods > 1:
        cut.methods -= 1
    else:
        return False
    return True


def _longer(most: _Cut) -> list[Callable[[_Cut], _Cut | None]]:
    """Ways to have more again, the most wanted first; None where there is no more."""
    return [
        lambda cut: replace(cut, methods=cut.methods + 1) if cut.methods < most.methods else None,
        lambda cut: replace(cut, spare=cut.spare - 1) if cut.spare else None,
        lambda cut: replace(cut, lost=cut.lost + 1) if cut.lost < most.lost else None,
    ]


def _blocks(
    title: Sequence[Block], views: Sequence[GroupView], closing: Closing, cut: _Cut
) -> list[Block]:
    found: list[Block] = list(title)
    columns: dict[str, None] = {}
    methods = changes = 0
    for view in views[: cut.groups]:
        methods += max(0, len(view.main.rows) - cut.methods)
        changes += max(0, len(view.lost.rows) - cut.lost)
        if cut.spare:
            kept = [i for i, c in enumerate(view.main.columns) if not 0 < c.spare <= cut.spare]
            columns |= {c.title: None for c in view.main.columns if 0 < c.spare <= cut.spare}
            view = replace(view, main=view.main.of_columns(kept))
        found += view.some(cut.methods, cut.lost)
    groups = len(views) - cut.groups
    return [*found, *closing(Hidden(methods, changes, groups, tuple(columns)))]


def methods_order(main: Table, baseline: str | None) -> list[int]:
    """Rows to keep first: the base model, the baseline, every best number, then as configured."""
    rows = range(len(main.rows))

    def first(place: int) -> bool:
        label = main.rows[place][0]
        best = any(isinstance(cell, Number) and cell.best for cell in main.rows[place])
        return place == 0 or label == baseline or best

    return [*(p for p in rows if first(p)), *(p for p in rows if not first(p))]


def lost_order(lost: Table) -> list[int]:
    """Rows to keep first: what is resolved, the largest change first, then what may be."""
    at = {column.title: place for place, column in enumerate(lost.columns)}
    ranks = {"lost": 0, "gained": 0, "perhaps lost": 1, "perhaps gained": 1}

    def rank(place: int) -> tuple[int, float]:
        change, verdict = (lost.rows[place][at[title]] for title in ("change", "verdict"))
        value = change.value if isinstance(change, Number) else None
        return ranks.get(str(verdict), 2), -abs(value or 0.0)

    rows = range(len(lost.rows))
    return sorted(rows, key=rank)
