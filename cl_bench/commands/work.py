"""`cl-bench work`: what `run --parallel` starts on the hosts of a cluster; nobody types it."""

from __future__ import annotations

from pathlib import Path

import typer


def work(
    request: Path = typer.Argument(..., help="JSON file: what to do (parallel/requests.py)."),
    answer: Path = typer.Argument(..., help="JSON file that is written where it fails."),
    parent: int = typer.Argument(..., help="The process that waits for this one."),
) -> None:
    """Make one run of an experiment for a driver on another host."""
    from cl_bench.parallel.child import main

    main(request, answer, parent)
