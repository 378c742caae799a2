"""`cl-bench gate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cl_bench.commands.options import CHAT_TEMPLATE_HELP, ENGINE_ARGS_HELP, ENGINE_HELP

if TYPE_CHECKING:
    from cl_bench.gate.gated import Gated

EXIT_CODES = {"pass": 0, "fail": 1, "undecided": 3}


def gate(
    new: str = typer.Argument(..., help="A stage (as in diff), or a model folder."),
    against: str = typer.Option(..., help="What it may not fall behind: the same forms."),
    margin: float = typer.Option(..., help="Points that every capability may drop."),
    task: list[str] = typer.Option(
        [], help="Only this benchmark or task (repeatable); General's benchmarks by default."
    ),
    budget: str | None = typer.Option(
        None, help="Of model folders: time for scoring, such as 10m; at least one look is taken."
    ),
    limit: int | None = typer.Option(
        None,
        min=1,
        help="Of model folders: most documents a benchmark; as `budget: standard` by default.",
    ),
    dtype: str = typer.Option("bfloat16", help="Of model folders."),
    chat_template: str | None = typer.Option(None, help=f"Of model folders. {CHAT_TEMPLATE_HELP}"),
    engine: str = typer.Option("cl-bench", help=ENGINE_HELP),
    engine_args: str | None = typer.Option(None, help=ENGINE_ARGS_HELP),
    data_root: Path | None = typer.Option(None, help="Of model folders: where the data is."),
    task_path: list[str] = typer.Option([], help="Of model folders: more folders of tasks."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, with all lost documents."),
    junit: Path | None = typer.Option(None, help="Write this JUnit file."),
    markdown: Path | None = typer.Option(None, help="Write this Markdown, for a pull request."),
    results: Path = typer.Option(
        Path("results"), help="Folder that experiments, and scores of models, are kept in."
    ),
) -> None:
    """May it ship: did NEW drop by more than a margin? Exit 0 pass, 1 fail, 3 undecided."""
    from cl_bench.errors import UserError
    from cl_bench.gate.models import are_models

    faults = [
        f"{option} {file}: {file.parent} is not a folder"
        for option, file in (("--junit", junit), ("--markdown", markdown))
        if file is not None and not file.absolute().parent.is_dir()
    ]
    if not 0 <= margin < 100:
        faults.append(f"--margin {margin:g}: points, from 0 to below 100")
    of_models = {
        "--budget": budget,
        "--limit": limit,
        "--data-root": data_root,
        "--task-path": task_path or None,
        "--engine-args": engine_args,
        "--chat-template": chat_template,
        "--engine": None if engine == "cl-bench" else engine,
        "--dtype": None if dtype == "bfloat16" else dtype,
    }
    models = are_models(against, new)
    if not models:
        faults += [
            f"{option}: for model folders; the documents of stages are scored already"
            for option, value in of_models.items()
            if value is not None
        ]
    if faults:
        raise UserError(faults)
    if models:
        found = _of_models(
            against, new, margin, task, budget, limit, dtype, engine, engine_args, data_root,
            task_path, chat_template, results,
        )  # fmt: skip
    else:
        from cl_bench.gate.stored import gate_stages
        from cl_bench.results.places import find_places

        found = gate_stages(*find_places(against, new, results), task, margin / 100)
    _show(found, as_json, junit, markdown)
    raise typer.Exit(EXIT_CODES[found.verdict])


def _of_models(
    old: str,
    new: str,
    margin: float,
    tasks: list[str],
    budget: str | None,
    limit: int | None,
    dtype: str,
    engine: str,
    engine_args: str | None,
    data_root: Path | None,
    task_paths: list[str],
    chat_template: str | None,
    results: Path,
) -> Gated:
    from cl_bench.config.budgets import TRACE_GENERAL
    from cl_bench.config.file import template_text
    from cl_bench.evaluation.engines.choice import choose_engine
    from cl_bench.gate.models import seconds_of_budget
    from cl_bench.terminal import say

    seconds = seconds_of_budget(budget)
    chosen = choose_engine(engine, engine_args)
    say(f"gate: reading tasks for {new} against {old}")  # before slow imports

    from cl_bench.gate.folders import Asked, gate_folders
    from cl_bench.progress import Reporter

    asked = Asked(
        old=old,
        new=new,
        dtype=dtype,
        tasks=tuple(dict.fromkeys(tasks)) or tuple(TRACE_GENERAL),
        limit=limit,
        data_root=None if data_root is None else str(data_root),
        task_paths=task_paths,
        engine=chosen,
        chat_template=template_text(chat_template or "off", Path.cwd()),
    )
    with Reporter() as reporter:
        return gate_folders(asked, margin / 100, seconds, results, reporter)


def _show(found: Gated, json: bool, junit: Path | None, markdown: Path | None) -> None:
    from cl_bench.gate.shown import as_json, as_junit, lines

    if junit is not None:
        junit.write_text(as_junit(found), encoding="utf-8")
    if markdown is not None:
        markdown.write_text("\n".join(lines(found)) + "\n", encoding="utf-8")
    print(as_json(found) if json else "\n".join(lines(found)))
