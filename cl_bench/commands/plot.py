"""`cl-bench plot`: an experiment's methods in one figure."""

from __future__ import annotations

from pathlib import Path

import typer


def plot(
    experiment: str | None = typer.Argument(None, help="Folder or name; the latest by default."),
    places: bool = typer.Option(False, help="Draw where in the model each stage trained instead."),
    out: Path = typer.Option(Path("figure.png"), help="File to write: .png, .svg or .pdf."),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Draw OP and General as tasks are added, and General over OP after the last stage."""
    from cl_bench.data.tasks import canonical_name
    from cl_bench.errors import UserError
    from cl_bench.report.inspection_figure import check_figure
    from cl_bench.report.summary_figure import draw_summary
    from cl_bench.results.methods import load_results
    from cl_bench.results.summary import base_summary
    from cl_bench.store.experiments import find_experiment, find_runs, read_experiment
    from cl_bench.store.seals import read_scores

    check_figure(out, "--out")
    folder = find_experiment(experiment, results)
    if places:
        from cl_bench.report.places_figure import draw_places
        from cl_bench.results.selections import selections_of

        found = [(run, selections_of(run)) for run in find_runs(folder)]
        kept = [(f"{run.path.parent.name}, {run.path.name}", own) for run, own in found if own]
        if not kept:
            raise UserError(f"--places: {folder}: no stage kept a selection of what it trained")
        draw_places(kept, out)
        print(out)
        return
    sequence = [canonical_name(s["task"]) for s in read_experiment(folder)["config"]["stages"]]
    tasks = list(read_scores(folder / "base")["trace"])
    draw_summary(base_summary(folder, tasks, sequence), load_results(folder), out)
    print(out)
