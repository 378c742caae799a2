"""`cl-bench inspect`: what the stages of a run trained, and what it did to the model."""

from __future__ import annotations

from pathlib import Path

import typer


def inspect(
    experiment: str | None = typer.Argument(None, help="Folder or name; the latest by default."),
    method: str | None = typer.Option(None, help="Only this method, by name or label."),
    seed: int | None = typer.Option(None, help="Only this seed."),
    plot: Path | None = typer.Option(
        None, help="Draw likeness of stages, and drift if it is measured (.png, .svg, .pdf)."
    ),
    drift: bool = typer.Option(
        False, help="Measure hidden states on fixed texts: loads the base model and every stage's."
    ),
    fisher: int | None = typer.Option(
        None, min=1, help="Compare estimates of this stage's Fisher: loads its model and data."
    ),
    examples: int = typer.Option(128, min=2, help="Of the stage, at most, for --fisher."),
    as_json: bool = typer.Option(False, "--json", help="JSON: what --drift and --fisher measure."),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Print what each stage trained by layer and module, how alike stages are, what moved."""
    from cl_bench.errors import UserError
    from cl_bench.store.experiments import find_experiment, find_runs

    if as_json and not drift and fisher is None:
        raise UserError("--json: has what --drift and --fisher measure: give one of them")
    from cl_bench.report.figures.files import check_figure, save
    from cl_bench.report.figures.inspection import draw_panels, drift_panels, likeness_panels
    from cl_bench.report.figures.style import styled
    from cl_bench.report.inspection import inspection_lines
    from cl_bench.results.selections import selections_of

    if plot is not None:
        check_figure(plot)
    folder = find_experiment(experiment, results)
    found = [(run, selections_of(run)) for run in find_runs(folder, method, seed)]
    if not found:
        raise UserError(f"{folder}: no run in it (methods: [ori] trains nothing)")
    runs = [run for run, _ in found]
    measured, estimates = None, {}
    if drift or fisher is not None:
        import json

        from cl_bench.experiment.drift import measure_drift
        from cl_bench.experiment.fisher_estimates import fisher_estimates
        from cl_bench.report.inspection_measures import (
            MEASURES,
            drift_json,
            drift_lines,
            estimate_lines,
            estimates_json,
            run_name,
        )

        measured = measure_drift(folder, runs) if drift else None
        if fisher is not None:
            estimates = {run.path: fisher_estimates(folder, run, fisher, examples) for run in runs}
    if as_json:
        parts = {} if measured is None else {"drift": drift_json(measured)}
        if estimates:
            own = {run_name(path): estimates_json(each) for path, each in estimates.items()}
            parts["fisher"] = {"stage": fisher, "runs": own}
        print(json.dumps(parts, indent=2))
    else:
        for run, kept in found:
            for line in inspection_lines(run, kept):
                print(line)
            if measured is not None:
                print("\n".join(drift_lines(measured, run)))
            if run.path in estimates:
                print("\n".join(estimate_lines(estimates[run.path])))
            print()
    if plot is not None:
        rows = []
        for run, kept in found:
            panels = likeness_panels(kept)
            if measured is not None:
                panels += drift_panels(measured.runs[run.path], MEASURES)
            rows.append((f"{run.path.parent.name}, {run.path.name}", panels))
        drawn = [(name, panels) for name, panels in rows if panels]
        if not drawn:
            raise UserError(f"--plot {plot}: no run has two stages with a selection to compare")
        with styled():
            save(draw_panels(drawn), plot)
