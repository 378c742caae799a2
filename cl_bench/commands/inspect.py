"""`cl-bench inspect`: what the stages of a run trained."""

from __future__ import annotations

from pathlib import Path

import typer


def inspect(
    experiment: str | None = typer.Argument(None, help="Folder or name; the latest by default."),
    method: str | None = typer.Option(None, help="Only this method, by name or label."),
    seed: int | None = typer.Option(None, help="Only this seed."),
    plot: Path | None = typer.Option(None, help="Draw the likeness of stages (.png, .svg, .pdf)."),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Print what each stage trained by layer and module, how alike stages are, what moved."""
    from cl_bench.errors import UserError
    from cl_bench.report.inspection import inspection_lines
    from cl_bench.report.inspection_figure import check_figure, draw_likeness
    from cl_bench.results.selections import selections_of
    from cl_bench.store.experiments import find_experiment, find_runs

    if plot is not None:
        check_figure(plot)
    folder = find_experiment(experiment, results)
    found = [(run, selections_of(run)) for run in find_runs(folder, method, seed)]
    if not found:
        raise UserError(f"{folder}: no run in it (methods: [ori] trains nothing)")
    for run, kept in found:
        for line in inspection_lines(run, kept):
            print(line)
        print()
    if plot is not None:
        several = [
            (f"{run.path.parent.name}, {run.path.name}", kept)
            for run, kept in found
            if len(kept) > 1
        ]
        if not several:
            raise UserError(f"--plot {plot}: no run has two stages with a selection to compare")
        draw_likeness(several, plot)
