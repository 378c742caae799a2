"""Where things are: the shipped `tasks/` and `configs/`, the user's cache, paths as written."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """`tasks`, `configs` or `constraints.txt`, from a wheel or from a checkout."""
    shipped = _PACKAGE / "_resources" / name
    return shipped if shipped.exists() else _PACKAGE.parent / name


def user_cache() -> Path:
    """Downloaded data and converted models: `$CL_BENCH_CACHE`, else `~/.cache/cl-bench`."""
    configured = os.environ.get("CL_BENCH_CACHE")
    return expanded(configured) if configured else Path.home() / ".cache" / "cl-bench"


def expanded(path: str | os.PathLike[str]) -> Path:
    """With the home that `~` stands for; `~nobody` of a user that does not exist stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def absolute(path: str | os.PathLike[str], folder: Path | None = None) -> Path:
    """Below `folder` (None: the current one), links followed; a circle of links stays as it is."""
    place = (folder or Path()) / expanded(path)
    try:
        return place.resolve()
    except RuntimeError:  # what Python before 3.13 says of a circle
        return place.absolute()
