"""`cl-bench status`."""

from __future__ import annotations

from pathlib import Path

import typer


def status(
    experiment: str | None = typer.Argument(None, help="Folder or name; the latest by default."),
    as_json: bool = typer.Option(False, "--json", help="JSON: state, status, runs."),
    watch: bool = typer.Option(False, "--watch", help="Again every second, until it has ended."),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Say what a run is at, or how it ended; reads files only, from any terminal or host."""
    import json
    import shutil
    import time

    from cl_bench.errors import UserError
    from cl_bench.report.status import status_json, status_lines
    from cl_bench.store.experiments import named_experiment

    if as_json and watch:
        raise UserError("--json and --watch: give one of them")
    folder = named_experiment(experiment, results)
    if as_json:
        print(json.dumps(status_json(folder)))
        return
    while True:
        width = shutil.get_terminal_size((100, 40)).columns
        found, lines = status_lines(folder, width)
        clear = "\033[H\033[J" if watch else ""
        print(clear + "\n".join(lines), flush=True)
        if not watch or found != "running":
            return
        time.sleep(1.0)
