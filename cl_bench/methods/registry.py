"""Finding methods by name or in a user's file, and checking their options."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from pathlib import Path

from cl_bench.errors import UserError, nearest
from cl_bench.methods.base import Method

METHODS: dict[str, str] = {
    "sft": "cl_bench.methods.sft:SFT",
    "fggm": "cl_bench.methods.fggm:FGGM",
    "ewc": "cl_bench.methods.ewc:EWC",
    "replay": "cl_bench.methods.replay:Replay",
    "lora": "cl_bench.methods.lora:LoRA",
    "migu": "cl_bench.methods.migu:MIGU",
}
BASE_ROW = "ori"
"""Accepted in `methods:`; the base model is scored once for every experiment anyway."""


def method_class(name: str) -> type[Method]:
    """The class of a shipped method. Raises UserError naming the nearest one."""
    if name not in METHODS:
        raise UserError(f"unknown method '{name}'{nearest(name, [*METHODS, BASE_ROW])}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found


def method_from_file(path: Path) -> type[Method]:
    """The one `Method` subclass defined in a user's file.

    The file is Python and is run: only files the user named are loaded.
    """
    if not path.is_file():
        raise UserError(f"methods: file: no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"cl_bench_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"methods: file: not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UserError(f"{path}: expected one subclass of Method, found {len(found)}")
    if not isinstance(getattr(found[0], "name", None), str):
        raise UserError(f"{path}: {found[0].__name__} has no name: add name = '...' to the class")
    return found[0]
