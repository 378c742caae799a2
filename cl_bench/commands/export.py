"""`cl-bench export`."""

from __future__ import annotations

from pathlib import Path

import typer


def export(
    run: str = typer.Argument(..., help="NAME/method, NAME/method/seed-42, or a run's folder."),
    folder: Path = typer.Argument(..., help="New folder to write."),
    stage: int | None = typer.Option(None, min=1, help="After this stage; default: the last."),
    merge: bool = typer.Option(
        False, "--merge", help="Merge an adapter into the weights of its base: a whole model."
    ),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Write the model after a stage as an ordinary folder with a model card, of a delta too."""
    from cl_bench.experiment.export import export as write
    from cl_bench.results.places import find_run

    found = find_run(run, results)
    written = write(found, stage, folder, merge)
    print(f"{folder}: {found.path} after stage {written.stage}")
    if written.base is not None:
        print(
            f"an adapter of {written.base}: `--merge` writes a whole model instead; if that is a "
            "stage stored as a delta, export it too"
        )
