"""The one style of all figures: fonts, colours, lines, marks, shades.

What tells two things apart is never a colour alone: every series has a marker of its own and one of
several dashes, bars are hatched, and shades of heat maps darken steadily and have numbers in them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#007a5a", "#b5407f", "#8a6d00", "#3a9bd9", "#444444")
"""Told apart by the colour-blind (after Okabe and Ito, darker where thin lines need it)."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 2, 1.2, 2)), (0, (9, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
MOST = len(MARKERS)
"""Series of a figure: as many as have a marker of their own."""
LOST, GAINED, GREY = "#d55e00", "#0072b2", "#666666"
HATCH = "////"
OPEN = "xxxx"
"""The hatch of what is not measured."""
SHADES = ("#f4f8fb", "#a9cbe2", "#3f88bd", "#08306b")
LONGEST = 32
"""Characters of a label."""
SIDE = 1.6
"""Inches that a legend takes."""
SETTINGS: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": "#222222",
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "hatch.linewidth": 0.7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 3,
    "figure.facecolor": "white",
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "text.parse_math": False,
    # The same numbers give the same bytes.
    "svg.hashsalt": "cl-bench",
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Look:
    """Of a series."""

    colour: str
    dash: Any
    marker: str

    def line(self) -> dict[str, Any]:
        """For `plot` and `errorbar`; markers are filled with white so that they show on lines."""
        return {
            "color": self.colour,
            "linestyle": self.dash,
            "marker": self.marker,
            "markerfacecolor": "white",
            "elinewidth": 0.8,
        }

    def mark(self) -> dict[str, Any]:
        """The same without a line."""
        return self.line() | {"linestyle": "none", "markerfacecolor": self.colour}


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """One for each of up to MOST labels, no two with the same marker."""
    return {
        label: Look(COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], MARKERS[i % MOST])
        for i, label in enumerate(labels)
    }


@contextmanager
def styled() -> Iterator[None]:
    """Within, figures are made and saved in this style and in no other, whatever was set."""
    from matplotlib import rc_context, rcParamsDefault

    with (
        rc_context({**rcParamsDefault, **SETTINGS, "backend": "agg"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def sheet(
    title: str, rows: int, columns: int, size: tuple[float, float], side: float = SIDE
) -> tuple[Any, Any]:
    """A figure with panels of `size` inches, and these panels as an array of rows.

    `side`: inches to the right of them, for a legend.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * size[0] + side, rows * size[1] + 0.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    return figure, figure.subplots(rows, columns, squeeze=False)


def empty(panels: Sequence[Any]) -> None:
    """Nothing stands in these."""
    for panel in panels:
        panel.set_axis_off()


def note(figure: Any, text: str) -> None:
    """A line below all panels."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7.5, color=GREY)


def legend(figure: Any, series: Mapping[str, Any]) -> None:
    """To the right of all panels: a name for each thing that was drawn."""
    names = [plain(label) for label in series]
    figure.legend(list(series.values()), names, loc="outside right upper")


def level(panel: Any, value: float) -> Any:
    """A dashed grey line from left to right: where the base model is."""
    return panel.axhline(value, color=GREY, linestyle=(0, (3, 2)), linewidth=0.9)


def border(panel: Any, place: float) -> None:
    """A thin line from top to bottom: where something begins."""
    panel.axvline(place, color="#aaaaaa", linestyle="-", linewidth=0.7)


def heat(
    panel: Any,
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    range_: tuple[float, float],
    digits: int | None = 1,
) -> Any:
    """Shades with numbers in them, the first row on top; None is hatched. Returns the mesh.

    `digits` None: too many cells for numbers.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    shades = LinearSegmentedColormap.from_list("cl-bench", SHADES)
    nan = float("nan")
    known = [[nan if value is None else value for value in row] for row in values]
    mesh = panel.pcolormesh(
        known, cmap=shades, vmin=range_[0], vmax=range_[1], edgecolors="white", linewidth=0.6
    )
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if value is None:
                look: dict[str, Any] = {"facecolor": "white", "edgecolor": "#c4c4c4", "hatch": OPEN}
                panel.add_patch(Rectangle((j, i), 1, 1, linewidth=0, **look))
            elif digits is not None:
                share = (value - range_[0]) / (range_[1] - range_[0])
                panel.text(
                    *(j + 0.5, i + 0.5, f"{value:.{digits}f}"),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if share > 0.72 else "#111111",
                )
    panel.set_xticks([j + 0.5 for j in range(len(columns))], map(plain, columns), rotation=40)
    for text in panel.get_xticklabels():
        text.set(ha="right", rotation_mode="anchor")
    panel.set_yticks([i + 0.5 for i in range(len(rows))], map(plain, rows))
    panel.invert_yaxis()
    panel.grid(False)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    return mesh


def plain(text: str) -> str:
    """A label that no figure stumbles over: signs that can be seen, not too many."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    shown = shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"
    # What begins with one is left out of legends.
    return f" {shown}" if shown.startswith("_") else shown
