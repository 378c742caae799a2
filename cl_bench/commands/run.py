"""`cl-bench run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cl_bench.commands.options import (
    ALLOW_CODE_HELP,
    ENGINE_ARGS_HELP,
    ENGINE_HELP,
    ENGINE_PYTHON_HELP,
    PARALLEL_HELP,
    PER_RUN_HELP,
    UNTIL_HELP,
)
from cl_bench.terminal import say

if TYPE_CHECKING:
    from cl_bench.parallel.asked import Command, Parallel


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
    parallel: str | None = typer.Option(None, help=PARALLEL_HELP),
    per_run: str | None = typer.Option(None, help=PER_RUN_HELP),
    allow_code_execution: bool = typer.Option(False, help=ALLOW_CODE_HELP),
) -> None:
    """Train every stage with every method and score after each; goes on where it stopped."""
    from cl_bench.experiment.processes import one_voice, place
    from cl_bench.parallel.asked import Command, parallel_asked

    if place() == 0:  # at once: what follows takes seconds before it has anything to say
        say(f"{config}: reading config, tasks and data")
    asked = (engine, engine_args, engine_python)
    command = Command(config, override, method, until, results, asked, allow_code_execution)
    with one_voice():
        _run(command, share, parallel_asked(parallel, per_run))


def _run(command: Command, share: bool, parallel: Parallel | None) -> None:
    from cl_bench.errors import RunError, RunsFailedError

    try:
        folder = _made(command, share, parallel)
    except RunsFailedError as error:
        _report(error.folder, command)
        raise
    if faults := _report(folder, command):
        raise RunError("\n  ".join(faults))


def _made(command: Command, share: bool, parallel: Parallel | None) -> Path:
    from cl_bench.evaluation.engines.choice import engine_asked
    from cl_bench.experiment.resolve import resolve_file

    # its faults, before torch is imported
    results, allow_code = command.results, command.allow_code
    given = (command.override, command.method, results, command.until)
    experiment = resolve_file(command.config, *given)
    chosen = engine_asked(experiment.config.engine, *command.engine)

    from cl_bench.experiment.finished import finished
    from cl_bench.experiment.processes import place, refuse_several
    from cl_bench.progress import Reporter

    beside = share or parallel is not None
    if (folder := finished(experiment, results, allow_code, beside, say)) is not None:
        say(f"{folder}: finished already")
        return folder
    if parallel is not None:
        from cl_bench.parallel.driver import run_in_parallel

        refuse_several("run --parallel")
        return run_in_parallel(experiment, command, chosen, parallel, say)
    with Reporter(enabled=place() == 0) as reporter:
        reporter.planned(
            experiment.config.name, [run.label for run in experiment.chosen], experiment.columns
        )
        from cl_bench.experiment.run import run_experiment  # torch: seconds

        return run_experiment(experiment, results, chosen, reporter, allow_code, share)


def _report(folder: Path, command: Command) -> Sequence[str]:
    """Prints it, in the first process; returns what it could not read."""
    from cl_bench.experiment.processes import place
    from cl_bench.report.written import Wanted, print_report
    from cl_bench.results.groups import Chosen

    if place() > 0:
        return []
    return print_report([Chosen(folder)], command.results, Wanted(figures=True))
