"""`cl-bench init`."""

from __future__ import annotations

from pathlib import Path

import typer

from cl_bench.commands.options import DATA_ROOT_HELP


def init(
    files: list[str] = typer.Argument(
        ..., help="Rows to train on, a stage each: files, folders or hf://owner/name."
    ),
    model: str = typer.Option(..., help="Folder, hub id, or smollm2-135m."),
    out: Path | None = typer.Option(None, help="The config to write; default: NAME.yaml."),
    name: str | None = typer.Option(None, help="Of the experiment; default: of the files."),
    tflops: float | None = typer.Option(
        None, min=1e-6, help="Sustained 10^12 FLOP/s of the machine; default: it is measured."
    ),
    data_root: Path | None = typer.Option(None, help=DATA_ROOT_HELP),
) -> None:
    """Write a commented config for files of your own; `cl-bench run` needs nothing else.

    cl-bench init jan.jsonl feb.jsonl --model smollm2-135m
    """
    from cl_bench.terminal import say

    say("reading the files, looking at the machine")  # before slow imports

    from cl_bench.checks.first_steps import look_around
    from cl_bench.errors import UserError
    from cl_bench.report.first_config import Wanted, first_config, named

    called = name or named(files)
    target = out or Path(f"{called}.yaml")
    if target.exists():
        raise UserError(f"{target}: is there already: name another file with --out")
    wanted = Wanted(files, model, target, called, look_around(tflops, data_root), data_root)
    text, facts, gate = first_config(wanted)
    try:
        with target.open("x", encoding="utf-8") as file:  # nothing that came in the meantime
            file.write(text)
    except OSError as error:
        raise UserError(f"--out {target}: cannot be written ({error.strerror})") from error
    for line in facts:
        print(line)
    print(f"{target}: written; next: cl-bench plan {target}, cl-bench run {target}")
    print(f"may it ship? {gate}")
    print(f"the model as others load it: cl-bench export {called}/sft FOLDER")
