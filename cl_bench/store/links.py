"""Nothing leads out of an experiment's folder: no symlink in it, no name in its records.

Results are passed on as folders. What one of them names is read, checked and printed, so that a
link or a `..` in it would reach files of whoever looks at it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from cl_bench.errors import UserError
from cl_bench.resources import absolute


def links_out(folder: Path) -> list[str]:
    """A line for every symlink below a folder whose end is not below it.

    The folder may itself be a link: its name was given by the user.
    """
    root = absolute(folder)
    found = []
    for parent, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            if path.is_symlink() and not (end := absolute(path)).is_relative_to(root):
                found.append(
                    f"{path}: a link that leads out of {folder} (to {end}), which is not followed: "
                    "put what it stands for in its place, or remove it"
                )
    return found


def check_links(folder: Path) -> None:
    """Raise UserError naming every link of an experiment's folder that leads out of it."""
    if found := links_out(folder):
        raise UserError(found)


def leading_out(names: Iterable[object]) -> str | None:
    """The first name of a record that is none of a file below the record's folder."""
    return next((str(name) for name in names if not _inside(name)), None)


def _inside(name: object) -> bool:
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path != PurePosixPath()
