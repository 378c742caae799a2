"""Finding methods by name or in a user's file, and checking their options."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType

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
    if name == BASE_ROW:
        raise UserError(
            f"'{BASE_ROW}' is the base model, which is scored once for every experiment: no method "
            "can be composed of it, and no stage trained by it"
        )
    if name not in METHODS:
        raise UserError(f"unknown method '{name}'{nearest(name, METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found


def method_from_file(path: Path) -> type[Method]:
    """The one `Method` subclass defined in a user's file, with known hooks only.

    The file is Python and is run, once for as long as it does not change: only files the user
    named are loaded. Raises UserError that names the file and what is wrong with it.
    """
    if not path.is_file():
        raise UserError(f"methods: file: no such file: {path}")
    status = path.stat()
    return _from_file(path.resolve(), status.st_mtime_ns, status.st_size)


@functools.cache
def _from_file(path: Path, changed: int, size: int) -> type[Method]:
    module = _executed(path, changed)
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    ]
    if not found:
        raise UserError(
            f"{path}: holds no method: `from cl_bench.methods.base import Method` and define one "
            "`class Mine(Method)` with a name = '...'"
        )
    if len(found) > 1:
        names = ", ".join(cls.__name__ for cls in found)
        raise UserError(f"{path}: expected one subclass of Method, found {len(found)}: {names}")
    if not isinstance(getattr(found[0], "name", None), str):
        raise UserError(f"{path}: {found[0].__name__} has no name: add name = '...' to the class")
    if faults := hook_faults(found[0]):
        raise UserError([f"{path}: {fault}" for fault in faults])
    return found[0]


def _executed(path: Path, changed: int) -> ModuleType:
    """The file as a module; it is known by name, which dataclasses and annotations look up."""
    digest = hashlib.sha256(f"{path} {changed}".encode()).hexdigest()[:12]
    name = f"cl_bench_user_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"methods: file: not a Python file (.py): {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [at for at in traceback.extract_tb(error.__traceback__) if at.filename == str(path)]
        where = f", line {lines[-1].lineno}" if lines else ""
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}{where}: cannot be loaded: {what}") from error
    return module


def hook_faults(cls: type[Method]) -> list[str]:
    """Public names of a class that cl-bench does not know, and hooks that cannot be called.

    A misspelled hook would never be called, in silence. Helpers begin with `_`; constants in
    capitals and classes are left alone.
    """
    own = [owner for owner in cls.__mro__ if not owner.__module__.startswith("cl_bench.")]
    ours = [owner for owner in cls.__mro__ if owner not in own]
    known = {"name"} | {name for owner in ours for name in vars(owner) if name[0] != "_"}
    found: list[str] = []
    for owner in own:
        if owner in Method.__mro__:
            continue
        for name, value in vars(owner).items():
            if name.startswith("_") or name.isupper() or inspect.isclass(value):
                continue
            if name not in known:
                found.append(
                    f"{owner.__name__}.{name}: no hook or setting of a method"
                    f"{nearest(name, known)}; a helper's name begins with _"
                )
            elif fault := _uncallable(name, value):
                found.append(f"{owner.__name__}.{name}: {fault}")
    return found


def _uncallable(name: str, value: object) -> str | None:
    """What is wrong with a hook's arguments; None for one that takes what it is given."""
    ours = getattr(Method, name, None)
    if not inspect.isfunction(ours):
        return None
    given = list(inspect.signature(ours).parameters.values())
    if isinstance(value, staticmethod | classmethod) or not callable(value):
        return f"must be a function of ({', '.join(each.name for each in given)})"
    try:
        inspect.signature(value).bind(*given)
    except TypeError:
        return f"is called with ({', '.join(each.name for each in given)})"
    return None
