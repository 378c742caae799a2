"""`cl-bench verify`."""

from __future__ import annotations

from pathlib import Path

import typer


def verify(
    experiment: str | None = typer.Argument(None, help="Folder or name; the latest by default."),
    as_json: bool = typer.Option(False, "--json", help="JSON: faults, notes, files."),
    results: Path = typer.Option(Path("results"), help="Folder that experiments are kept in."),
) -> None:
    """Read every file of an experiment and compare it with its checksum; exit code 1 for faults."""
    import json

    from cl_bench.errors import RunError
    from cl_bench.experiment.verify import verify as read_all
    from cl_bench.store.experiments import named_experiment

    folder = named_experiment(experiment, results)
    found = read_all(folder)
    if as_json:
        print(json.dumps({"faults": found.faults, "notes": found.notes, "files": found.compared}))
    else:
        for line in found.notes:
            print(f"note: {line}")
        for line in found.faults:
            print(f"fault: {line}")
    faults = len(found.faults)
    if faults:
        raise RunError(
            f"{folder}: {faults} {'files are' if faults > 1 else 'file is'} not as written"
        )
    if not as_json:
        print(f"{folder}: all {found.compared} files are as they were written")
