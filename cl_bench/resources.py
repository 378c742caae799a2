"""Where the shipped `tasks/` and `configs/` folders are: in the wheel, or beside the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """`tasks`, `configs` or `constraints.txt`, from a wheel or from a checkout."""
    shipped = _PACKAGE / "_resources" / name
    return shipped if shipped.exists() else _PACKAGE.parent / name


def user_cache() -> Path:
    """Downloaded data and converted models: `$CL_BENCH_CACHE`, else `~/.cache/cl-bench`."""
    import os

    configured = os.environ.get("CL_BENCH_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "cl-bench"
