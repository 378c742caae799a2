"""`cl-bench diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer


def diff(
    a: str = typer.Argument(..., help="Before: base, NAME/method/seed-42/stage-3, or a folder."),
    b: str = typer.Argument(..., help="After: the same forms."),
    task: list[str] = typer.Option([], help="Only this task or benchmark (repeatable)."),
    show: int | None = typer.Option(
        None,
        min=0,
        help="Documents of each task that were lost, and that were gained, with question, choices, "
        "gold and both answers: none by default, all in HTML.",
    ),
    which: Literal["forgotten", "learned", "both"] = typer.Option(
        "both", help="What --show shows."
    ),
    as_json: bool = typer.Option(False, "--json", help="JSON, with all documents that changed."),
    html: Path | None = typer.Option(None, help="Write this file: one page, with the documents."),
    data_root: Path | None = typer.Option(None, help="Where the data is; the run's by default."),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Compare two stages or engines document by document: what was forgotten, what learned."""
    from cl_bench.errors import UserError
    from cl_bench.report.diff import Diff, diff_json, diff_lines
    from cl_bench.results.compare import compare_places
    from cl_bench.results.places import find_places
    from cl_bench.results.pooled import pooled_general
    from cl_bench.results.shown_documents import Shown, changed_documents
    from cl_bench.terminal import say

    if html is not None and as_json:
        raise UserError("--html, --json: one of them at a time")
    if html is not None and not html.absolute().parent.is_dir():
        raise UserError(f"--html {html}: {html.parent} is not a folder")
    first, second = find_places(a, b, results)
    for place in dict.fromkeys((first, second)):
        if line := place.without_scores():
            say(f"cl-bench: warning: {line}")
    diffs = compare_places(first, second, task)
    shown = Shown()
    if show or (show is None and html is not None):
        shown = Shown(tuple(changed_documents(diffs, which, show)))
    if shown.changed:
        from cl_bench.experiment.reread import reread  # loads lm-eval, for the questions alone

        shown = Shown(shown.changed, *reread(first, shown.wanted, data_root))
    found = Diff(first, second, diffs, pooled_general(first, second, diffs), shown)
    if html is not None:
        from cl_bench.report.diff_html import diff_html

        html.write_text(diff_html(found), encoding="utf-8")
        print(html)
    elif as_json:
        print(diff_json(found))
    else:
        print("\n".join(diff_lines(found)))
