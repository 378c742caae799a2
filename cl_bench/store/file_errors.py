"""Errors of files say which file: a full disk names none, safetensors has a type of its own."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cl_bench.errors import RunError, UserError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of writing `path` become an OSError with its name."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # not imported for its name alone
            raise
        number = re.search(r"os error (\d+)", str(error))
        reason = str(error).removeprefix("Error while serializing: ")
        raise OSError(int(number[1]) if number else 5, reason, str(path)) from error


def check_results_folder(
    folder: Path, remedy: str = "use --results with a folder that can"
) -> None:
    """Raise UserError where nothing can be written in `folder`, which need not exist yet."""
    nearest = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"{nearest}: is a file; --results names a folder")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}: {nearest}); {remedy}"
        ) from error


def what_failed(error: OSError) -> str:
    """`<file>: <reason>`; what we write has a name, so that without one it was the output."""
    if error.strerror is None:
        return str(error)
    name = str(error.filename or "standard output or a library")
    return f"{name if len(name) <= 300 else f'{name[:300]}...'}: {error.strerror}"


@contextmanager
def said_to_be_kept(folder: Path) -> Iterator[None]:
    """A file that cannot be read or written fails the run, which can go on."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{what_failed(error)}; what is complete in {folder} is kept: "
            "run the same command again to go on"
        ) from error
