"""`cl-bench plan`, `tasks`, `methods` and `doctor`: what there is, before anything runs."""

from __future__ import annotations

from pathlib import Path

import typer

from cl_bench.commands.options import (
    DATA_ROOT_HELP,
    ENGINE_ARGS_HELP,
    ENGINE_HELP,
    ENGINE_PYTHON_HELP,
    PARALLEL_HELP,
    PER_RUN_HELP,
    TASK_PATH_HELP,
    UNTIL_HELP,
)


def plan(
    config: str = typer.Argument(..., help="Experiment YAML, a path or a shipped one."),
    override: list[str] = typer.Option([], "-o", "--override", help="key=value (repeatable)."),
    method: list[str] = typer.Option([], help="Only this method, by name or label (repeatable)."),
    until: str | None = typer.Option(None, help=UNTIL_HELP),
    card: list[float] = typer.Option(
        [], min=0.1, help="Does it fit a card of so many GB (repeatable)? Default: 24, 48, 80."
    ),
    tflops: float | None = typer.Option(
        None, min=1e-6, help="Sustained 10^12 FLOP/s of a process: print hours too."
    ),
    processes: int = typer.Option(
        1, min=1, help="How many processes train and score together: memory of each, hours of all."
    ),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
    engine: str | None = typer.Option(None, help=ENGINE_HELP),
    engine_args: str | None = typer.Option(None, help=ENGINE_ARGS_HELP),
    engine_python: str | None = typer.Option(None, help=ENGINE_PYTHON_HELP),
    parallel: str | None = typer.Option(None, help=PARALLEL_HELP),
    per_run: str | None = typer.Option(None, help=PER_RUN_HELP),
) -> None:
    """Print what would run: memory, FLOPs, disk, every stage, where each value comes from.

    What `run` would refuse is refused here too, as far as model and data are on this machine.
    """
    from cl_bench.terminal import say

    say(f"{config}: reading config, tasks and data")  # at once, as `run` does

    from math import isfinite

    from cl_bench.checks.of_plan import plan_checks
    from cl_bench.errors import UserError
    from cl_bench.evaluation.engines.choice import engine_asked
    from cl_bench.experiment.resolve import resolve_file
    from cl_bench.parallel.asked import parallel_asked
    from cl_bench.report.plan import plan_text

    for name, values in (("--card", card), ("--tflops", [tflops or 1.0])):
        if odd := [value for value in values if not isfinite(value)]:
            raise UserError(f"{name} {odd[0]}: a finite number is needed")
    spread = parallel_asked(parallel, per_run)
    experiment = resolve_file(config, override, method, results, until)
    chosen = engine_asked(experiment.config.engine, engine, engine_args, engine_python)
    print(plan_text(experiment, card, tflops, processes), flush=True)
    if chosen.name != "cl-bench":
        print(f"engine: {chosen}")
    for line in plan_checks(experiment, results / experiment.config.name, chosen):
        print(line)
    if spread is not None:
        from cl_bench.parallel.ray_cluster import planned

        print(planned(spread, len(experiment.runs), len(experiment.chosen)))


def tasks(
    task_path: list[Path] = typer.Option([], help=TASK_PATH_HELP),
    data_root: Path | None = typer.Option(None, help=DATA_ROOT_HELP),
) -> None:
    """List the tasks that stages and General can name, and whether their data is there."""
    from cl_bench.report.listing import task_lines

    for line in task_lines([str(path) for path in task_path], data_root):
        print(line)


def methods(
    name: str | None = typer.Argument(None, help="Only this one, with its options."),
) -> None:
    """List the methods, or all about one: options with meaning, default and range, and costs."""
    from cl_bench.report.method_listing import method_page, method_table

    for line in method_table() if name is None else method_page(name):
        print(line)


def doctor(
    model: str | None = typer.Option(None, help="Look at this model's tokenizer too."),
    data_root: Path | None = typer.Option(None, help=DATA_ROOT_HELP),
) -> None:
    """Check that this machine is ready: versions, device, bf16, disk, hub, data, a tokenizer.

    Exit code 1 where a run would fail.
    """
    from cl_bench.checks.machine import examine
    from cl_bench.errors import RunError

    faults = 0
    for finding in examine(model, data_root):
        print(f"{finding.kind:<5} {finding.text}", flush=True)
        faults += finding.kind == "fault"
    if faults:
        raise RunError(f"doctor: {faults} fault{'s' if faults > 1 else ''}, marked above")
