"""Python code that tasks name (`!function module.name`): only from folders that the user named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl_bench.errors import UserError

PACKAGES = ("cl_bench", "lm_eval")
"""Installed packages whose functions a task may name; what these import is theirs."""
_folders: list[Path] = []
"""Where the files of functions may lie, links followed: of the tasks that are being loaded."""


def guard_functions(folders: Sequence[Path]) -> None:
    """Makes lm-eval load the functions of YAMLs from files below these folders alone.

    lm-eval takes any file that a name leads to (`..` and links too) and any module that can be
    imported, of the current folder too. What lies elsewhere is a UserError that says where.
    """
    from lm_eval.tasks import _yaml_loader

    _folders[:] = [folder.resolve() for folder in folders]
    load = _yaml_loader._import_func_in_yml
    if getattr(load, "guarded", False):
        return

    def load_guarded(name: str, beside: Path) -> Any:
        _check(name, beside)
        return load(name, beside)

    load_guarded.guarded = True  # type: ignore[attr-defined]
    _yaml_loader._import_func_in_yml = load_guarded


def _check(name: str, beside: Path) -> None:
    module, _, _ = name.rpartition(".")
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        raise UserError(f"!function {name}: expected module.name, of a file beside the YAML")
    file = beside.joinpath(*parts).with_suffix(".py")
    if file.is_file():
        real = file.resolve()
        if any(real.is_relative_to(folder) for folder in _folders):
            return
        through = "" if real == file else f", where {file} leads"
        raise UserError(
            f"!function {name}: {real}{through}, is in none of the folders that may hold code of "
            f"tasks: name its folder in task_paths: if you trust it"
        )
    if parts[0] not in PACKAGES:
        raise UserError(
            f"!function {name}: no file {file}, and code of tasks comes from files beside their "
            f"YAMLs (or from {' and '.join(PACKAGES)}), not from other modules"
        )
