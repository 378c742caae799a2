"""`cl-bench report`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import typer


class Format(str, Enum):
    """What a report is printed in."""

    md = "md"
    latex = "latex"
    csv = "csv"
    json = "json"
    html = "html"


def report(
    runs: list[str] = typer.Argument(
        None,
        metavar="RUN",
        help="Experiments by name or folder, or some of their runs: NAME/sft, NAME/sft/seed-42; "
        "the latest experiment by default.",
    ),
    full: bool = typer.Option(
        False, "--full", help="All tables: matrices, seeds, pairs, probes, protocol, requests."
    ),
    baseline: str | None = typer.Option(
        None, help="Method that others are compared with beside the base model; sft by default."
    ),
    format: Format = typer.Option(Format.md, help="md (Markdown), latex, csv, json or html."),
    table: str | None = typer.Option(
        None, help="Only this table: main, lost, matrix, general, learned, pairs, probes, ..."
    ),
    texts: bool = typer.Option(
        False, "--texts", help="Of HTML: read the words of documents from the data again."
    ),
    data_root: Path | None = typer.Option(
        None, help="Of --texts: where the data is; the experiment's own by default."
    ),
    figures: bool = typer.Option(
        True, help="Of md and html: draw figures of all that there is data for, beside the report."
    ),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Print what was learned and lost, and write it with figures beside the results."""
    from cl_bench.errors import RunError, UserError
    from cl_bench.report.written import Wanted, print_report
    from cl_bench.results.groups import choose
    from cl_bench.terminal import say

    if (texts and (format is not Format.html or table)) or (data_root and not texts):
        raise UserError("--texts, --data-root: only of a whole HTML report (--format html --texts)")
    chosen = choose(runs or [], results)
    if not runs:
        say(f"report of {chosen[0].folder}, the experiment that was run last")
    wanted = Wanted(format.value, table, full, baseline, texts, data_root, figures)
    if faults := print_report(chosen, results, wanted):
        raise RunError("\n  ".join(["some files could not be read:", *faults]))
