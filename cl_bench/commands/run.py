"""`cl-bench run`."""

from __future__ import annotations

from pathlib import Path

import typer


def run(
    config: str = typer.Argument(..., help="Experiment YAML, a path or a shipped one."),
    override: list[str] = typer.Option(
        [], "-o", "--override", help="key=value, for example -o train.lr=1e-6 (repeatable)."
    ),
    method: list[str] = typer.Option([], help="Only this method, by name or label (repeatable)."),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
    engine: str = typer.Option("cl-bench", help="Evaluation engine: cl-bench or hf."),
) -> None:
    """Train every stage with every method and score after each; goes on where it stopped."""
    from cl_bench.resolve import resolve_file

    loaded, _ = resolve_file(config, override, method)  # its faults, before torch is imported

    from cl_bench.experiment import run_experiment
    from cl_bench.progress import Reporter
    from cl_bench.report.markdown import write_report

    with Reporter() as reporter:
        folder = run_experiment(loaded, results, method, engine, reporter)
    if reporter.enabled:
        print(write_report(folder))
