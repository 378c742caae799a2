"""`cl-bench score`."""

from __future__ import annotations

import typer


def score(
    file: str = typer.Argument(
        "-", help="JSON lines: prediction, reference (, input); - is stdin."
    ),
    task: str = typer.Option(..., "--task", help="TRACE task, e.g. trace_meetingbank or FOMC."),
    similarity_backend: str = typer.Option(
        "difflib", help="Py150's ratio: difflib (what TRACE installs) or levenshtein."
    ),
) -> None:
    """Score predictions made elsewhere with TRACE's metrics; JSON on standard output."""
    import json

    from cl_bench.results.predictions import score_file

    result = score_file(task, file, similarity_backend)
    print(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
