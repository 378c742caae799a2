"""`cl-bench run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from cl_bench.commands.options import (
    ALLOW_CODE_HELP,
    ENGINE_ARGS_HELP,
    ENGINE_HELP,
    ENGINE_PYTHON_HELP,
    UNTIL_HELP,
)


def run(
    config: str = typer.Argument(..., help="Experiment YAML, a path or a shipped one."),
    override: list[str] = typer.Option(
        [], "-o", "--override", help="key=value, for example -o train.lr=1e-6 (repeatable)."
    ),
    method: list[str] = typer.Option([], help="Only this method, by name or label (repeatable)."),
    until: str | None = typer.Option(None, help=UNTIL_HELP),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
    engine: str | None = typer.Option(None, help=ENGINE_HELP),
    engine_args: str | None = typer.Option(None, help=ENGINE_ARGS_HELP),
    engine_python: str | None = typer.Option(None, help=ENGINE_PYTHON_HELP),
    share: bool = typer.Option(
        False,
        help="Work beside other starts with --share, on any host: each takes runs that are free.",
    ),
    allow_code_execution: bool = typer.Option(False, help=ALLOW_CODE_HELP),
) -> None:
    """Train every stage with every method and score after each; goes on where it stopped."""
    from cl_bench.experiment.processes import one_voice, place
    from cl_bench.terminal import say

    if place() == 0:  # at once: what follows takes seconds before it has anything to say
        say(f"{config}: reading config, tasks and data")
    with one_voice():
        asked = (engine, engine_args, engine_python)
        _run(config, override, method, until, results, asked, allow_code_execution, share)


def _run(
    config: str,
    override: list[str],
    method: list[str],
    until: str | None,
    results: Path,
    engine: tuple[str | None, str | None, str | None],
    allow_code: bool,
    share: bool,
) -> None:
    from cl_bench.evaluation.engines.choice import engine_asked
    from cl_bench.experiment.resolve import resolve_file
    from cl_bench.terminal import say

    # its faults, before torch is imported
    experiment = resolve_file(config, override, method, results, until)
    chosen = engine_asked(experiment.config.engine, *engine)

    from cl_bench.errors import RunsFailedError
    from cl_bench.experiment.finished import finished
    from cl_bench.experiment.processes import place
    from cl_bench.progress import Reporter
    from cl_bench.report.written import Wanted, print_report
    from cl_bench.results.groups import Chosen

    figures = Wanted(figures=True)
    if (folder := finished(experiment, results, allow_code, share, say)) is not None:
        say(f"{folder}: finished already")
        _reported(print_report([Chosen(folder)], results, figures))
        return
    with Reporter(enabled=place() == 0) as reporter:
        reporter.planned(
            experiment.config.name, [run.label for run in experiment.chosen], experiment.columns
        )
        from cl_bench.experiment.run import run_experiment  # torch: seconds

        try:
            folder = run_experiment(experiment, results, chosen, reporter, allow_code, share)
        except RunsFailedError as error:
            if reporter.enabled:
                print_report([Chosen(error.folder)], results, figures)
            raise
    if reporter.enabled:
        _reported(print_report([Chosen(folder)], results, figures))


def _reported(faults: Sequence[str]) -> None:
    """Raise RunError with the files that a report could not read."""
    from cl_bench.errors import RunError

    if faults:
        raise RunError("\n  ".join(faults))
