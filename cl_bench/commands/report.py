"""`cl-bench report`."""

from __future__ import annotations

from pathlib import Path

import typer


def report(
    experiment: str | None = typer.Argument(None, help="Folder or name; the latest by default."),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Print the Markdown tables of an experiment and write them to its report.md."""
    import sys

    from cl_bench.report.markdown import write_report
    from cl_bench.store.experiments import find_experiment

    folder = find_experiment(experiment, results)
    if experiment is None:
        print(f"report of {folder}, the experiment that was run last", file=sys.stderr)
    print(write_report(folder))
