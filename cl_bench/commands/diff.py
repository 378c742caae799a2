"""`cl-bench diff`."""

from __future__ import annotations

from pathlib import Path

import typer


def diff(
    a: str = typer.Argument(..., help="Before: base, NAME/method/seed-42/stage-3, or a folder."),
    b: str = typer.Argument(..., help="After: the same forms."),
    task: list[str] = typer.Option([], help="Only this task or benchmark (repeatable)."),
    show: int = typer.Option(0, min=0, help="Print so many documents that were lost and gained."),
    as_json: bool = typer.Option(False, "--json", help="JSON, with all documents that changed."),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Compare two stages or engines document by document: what was forgotten, what learned."""
    from cl_bench.report.diff import diff_json, diff_lines
    from cl_bench.results.compare import compare_places
    from cl_bench.results.places import find_places
    from cl_bench.terminal import say

    first, second = find_places(a, b, results)
    for place in dict.fromkeys((first, second)):
        if line := place.without_scores():
            say(f"cl-bench: warning: {line}")
    diffs = compare_places(first, second, task)
    if as_json:
        print(diff_json(first, second, diffs))
    else:
        print("\n".join(diff_lines(first, second, diffs, show)))
