"""`cl-bench plot`: one figure by name."""

from __future__ import annotations

from pathlib import Path

import typer

from cl_bench.report.figures.catalogue import DEFAULT, FIGURES


def plot(
    runs: list[str] = typer.Argument(
        None,
        metavar="RUN",
        help="Experiments by name or folder, or some of their runs, as of `report`; the latest "
        "experiment by default.",
    ),
    figure: str = typer.Option(
        DEFAULT, help=f"{', '.join(FIGURES)}; `list` says what each shows and needs."
    ),
    out: Path | None = typer.Option(
        None, help="File to write: .png, .svg or .pdf; FIGURE.png by default."
    ),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Draw a figure of methods: means over stages, matrices, what was learned against lost, ..."""
    from cl_bench.errors import RunError, UserError, nearest
    from cl_bench.report.figures.files import check_figure

    if figure == "list":
        for name, about in FIGURES.items():
            print(f"{name:8} {about.shows}; needs {about.needs}")
        return
    if figure not in FIGURES:
        hint = nearest(figure, list(FIGURES))
        raise UserError(f"--figure {figure}: not one of {', '.join(FIGURES)}{hint}")
    file = out or Path(f"{figure}.png")
    check_figure(file, "--out")

    from cl_bench.report.figures.drawing import draw_one
    from cl_bench.report.overview import read_overview
    from cl_bench.results.groups import choose
    from cl_bench.store.once import each_file_once

    with each_file_once():
        overview = read_overview(choose(runs or [], results))
        draw_one(overview, figure, file)
    print(file)
    if overview.faults:
        raise RunError("\n  ".join(["some files could not be read:", *overview.faults]))
