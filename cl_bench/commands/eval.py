"""`cl-bench eval`."""

from __future__ import annotations

from pathlib import Path

import typer

from cl_bench.commands.options import (
    ALLOW_CODE_HELP,
    ENGINE_ARGS_HELP,
    ENGINE_HELP,
    ENGINE_PYTHON_HELP,
)


def evaluate(
    experiment: str | None = typer.Argument(None, help="Folder or name; the latest by default."),
    stage: int = typer.Option(..., min=1, help="Stage whose checkpoint is scored."),
    method: str | None = typer.Option(None, help="Only this method, by name or label."),
    seed: int | None = typer.Option(None, help="Only this seed."),
    task: list[str] = typer.Option(
        [],
        help="Score these instead of the run's tasks (repeatable): a stage task, a benchmark, or "
        "general for all the run's benchmarks.",
    ),
    limit: int | None = typer.Option(None, min=1, help="Documents a task; the run's by default."),
    engine: str | None = typer.Option(None, help=ENGINE_HELP),
    engine_args: str | None = typer.Option(None, help=ENGINE_ARGS_HELP),
    engine_python: str | None = typer.Option(None, help=ENGINE_PYTHON_HELP),
    allow_code_execution: bool = typer.Option(False, help=ALLOW_CODE_HELP),
    data_root: Path | None = typer.Option(None, help="Where the data is; the run's by default."),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Score again what a stage left behind; the run's own results are not touched."""
    from cl_bench.experiment.processes import refuse_several
    from cl_bench.store.experiments import find_experiment
    from cl_bench.store.file_errors import check_results_folder
    from cl_bench.terminal import say

    refuse_several("eval")
    folder = find_experiment(experiment, results)
    latest = ", the experiment that was run last" if experiment is None else ""
    say(f"scoring {folder}{latest}: reading tasks, data and checkpoint")  # before slow imports

    from cl_bench.evaluation.engines.choice import engine_asked, recorded_engine
    from cl_bench.store.experiments import read_experiment

    own = recorded_engine(read_experiment(folder))
    chosen = engine_asked(own, engine, engine_args, engine_python)
    check_results_folder(folder, "score a copy of it in a folder that can")

    from cl_bench.experiment.rescore import Selection, rescore
    from cl_bench.progress import Reporter

    selection = Selection(
        stage, method, seed, tuple(task), limit, chosen, data_root, allow_code_execution
    )
    from cl_bench.report.evals import eval_lines

    with Reporter() as reporter:
        files = rescore(folder, selection, reporter)
    for file in files:
        say("\n".join(eval_lines(file)))  # standard output is for scripts: the files alone
        print(file)
