"""`cl-bench data`: get, import, verify and audit the datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from rich.console import Console

    from cl_bench.corpora.download import OnProgress
    from cl_bench.corpora.registry import KnownFile

app = typer.Typer(help="Get, verify and audit the datasets.", no_args_is_help=True)

_ROOT = typer.Option(None, "--root", help="Data root; default: where runs look for data.")
_TASK = typer.Option([], "--task", help="Only this task (repeatable), such as FOMC.")
_FORCE = typer.Option(False, "--force", help="Replace files that have other content.")
_JSON = typer.Option(False, "--json", help="JSON on standard output.")


@app.command("get")
def get(
    suite: str = typer.Argument(..., help="trace or general."),
    variant: str = typer.Option("5000", help="TRACE's training size: 5000, 1000 or 500."),
    task: list[str] = _TASK,
    mirror: str | None = typer.Option(
        None, help="Instead of GitHub: an address, or one with {repository}, {commit} and {path}."
    ),
    root: Path | None = _ROOT,
    force: bool = _FORCE,
) -> None:
    """Download data from its public GitHub republication: resumable, checksums checked."""
    from cl_bench.corpora.download import get_files
    from cl_bench.corpora.registry import licences_of
    from cl_bench.corpora.storage import data_root
    from cl_bench.corpora.tables import licence_table, outcome_table

    files = _chosen_files(suite, variant, task)
    target = data_root(root)
    console = _console()
    console.print(licence_table(licences_of(known.dataset for known in files)))
    with _progress() as on_progress:
        outcomes = get_files(files, target, mirror=mirror, force=force, on_progress=on_progress)
    console.print(outcome_table(outcomes))
    console.print(f"Data root: {target}", soft_wrap=True)


@app.command("import")
def import_(
    source: Path = typer.Argument(..., help="TRACE's archive: the zip, or its unpacked folder."),
    variant: str | None = typer.Option(None, help="5000, 1000 or 500; default: 5000 if there."),
    task: list[str] = _TASK,
    root: Path | None = _ROOT,
    force: bool = _FORCE,
) -> None:
    """Take over TRACE's official archive, downloaded by hand."""
    from cl_bench.corpora.archive import import_archive
    from cl_bench.corpora.registry import FOLDERS, check_variant, select_tasks
    from cl_bench.corpora.storage import data_root
    from cl_bench.corpora.tables import import_table

    wanted = check_variant(variant) if variant is not None else None
    tasks = select_tasks(task, FOLDERS)
    target = data_root(root)
    imported = import_archive(source, target, variant=wanted, tasks=tasks, force=force)
    console = _console()
    console.print(import_table(imported))
    console.print(f"Data root: {target}", soft_wrap=True)


@app.command("verify")
def verify_(
    root: Path = typer.Argument(..., help="Data root, with trace/ and general/ in it."),
    as_json: bool = _JSON,
) -> None:
    """Check schema, sizes and checksums, and tell which variant each task is."""
    import json

    from cl_bench.corpora.tables import verification_tables
    from cl_bench.corpora.verify import verify
    from cl_bench.errors import UserError

    result = verify(root)
    if as_json:
        print(json.dumps(result.as_json(), ensure_ascii=False, indent=2))
    else:
        console = _console()
        for table in verification_tables(result):
            console.print(table)
        for note in result.notes:
            console.print(f"note: {note}", soft_wrap=True, markup=False)
    if result.faults:
        raise UserError(result.faults)


@app.command("audit")
def audit_(
    root: Path = typer.Argument(..., help="Data root, or a folder of TRACE task folders."),
    task: list[str] = _TASK,
    tokenizer: str | None = typer.Option(
        None, help="Folder, Hub id or smollm2-135m; without it lengths are in characters."
    ),
    max_prompt_tokens: int = typer.Option(1024, help="As train.max_prompt_tokens of a config."),
    max_answer_tokens: int = typer.Option(512, help="As train.max_answer_tokens."),
    truncation: str = typer.Option("left", help="left, keep_instruction or trace."),
    as_json: bool = _JSON,
) -> None:
    """Find duplicates, leakage, conflicting answers, label balance and what truncation cuts."""
    import json
    from dataclasses import asdict

    from cl_bench.corpora.audit import audit_task, read_tasks
    from cl_bench.corpora.registry import select_tasks
    from cl_bench.corpora.tables import audit_tables, findings
    from cl_bench.corpora.token_lengths import token_budget

    loaded = read_tasks(root, select_tasks(task, ()))
    budget = None
    if tokenizer is not None:
        budget = token_budget(tokenizer, max_prompt_tokens, max_answer_tokens, truncation)
    audits = [audit_task(name, splits, budget) for name, splits in loaded.items()]
    if as_json:
        found = [{**asdict(one), "findings": findings(one)} for one in audits]
        print(json.dumps({"root": str(root), "tasks": found}, ensure_ascii=False, indent=2))
        return
    console = _console()
    for table in audit_tables(audits):
        console.print(table)
    for one in audits:
        for finding in findings(one):
            console.print(f"{one.task}: {finding}", soft_wrap=True, markup=False)


def _chosen_files(suite: str, variant: str, task: list[str]) -> list[KnownFile]:
    from cl_bench.corpora.registry import (
        FOLDERS,
        check_variant,
        general_files,
        select_tasks,
        trace_files,
    )
    from cl_bench.errors import UserError, nearest

    if suite == "trace":
        return trace_files(check_variant(variant), select_tasks(task, FOLDERS))
    if suite == "general":
        return general_files(task)
    raise UserError(f"unknown data {suite!r}{nearest(suite, ('trace', 'general'))}")


def _console() -> Console:
    """Standard output; wide enough for the tables where it is not a terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 160
    return console


def _progress() -> AbstractContextManager[OnProgress]:
    """Bars on standard error while files come in, if that is a terminal."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    @contextmanager
    def bars() -> Iterator[OnProgress]:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            rows: dict[str, object] = {}

            def on_progress(file: str, done: int, total: int | None) -> None:
                if file not in rows:
                    rows[file] = progress.add_task(file, total=total)
                progress.update(rows[file], completed=done, total=total)  # type: ignore[arg-type]

            yield on_progress

    return bars()
