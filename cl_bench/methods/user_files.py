"""Methods in files of the user's own: loading them, checking them, and saying where they fail."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import get_args

from cl_bench.errors import DivergedError, RunError, UserError, nearest
from cl_bench.methods.base import Kept, Method, Options

_PREFIX = "cl_bench_user_"
"""Of the names of modules made of such files."""


def split_file(given: str) -> tuple[Path, str | None]:
    """`my.py:Mine` is the class Mine of my.py; a file alone has one method."""
    path, _, name = given.rpartition(":")
    if path.endswith(".py") and name.isidentifier():
        return Path(path), name
    return Path(given), None


def method_from_file(path: Path, name: str | None = None) -> type[Method]:
    """The `Method` subclass of that name in a user's file, or its only one; known hooks only.

    The file is Python and is run, once for as long as it does not change: only files the user
    named are loaded. Raises UserError that names the file and what is wrong with it.
    """
    if not path.is_file():
        raise UserError(f"methods: file: no such file: {path}")
    status = path.stat()
    path = path.resolve()
    module = _executed(path, status.st_mtime_ns, status.st_size)
    found = {
        key: value
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    }
    if not found:
        raise UserError(
            f"{path}: holds no method: `from cl_bench.methods.base import Method` and define one "
            "`class Mine(Method)` with a name = '...'"
        )
    if name is not None and name not in found:
        raise UserError(f"{path}: holds no method {name}{nearest(name, found)}")
    if name is None and len(found) > 1:
        raise UserError(
            f"{path}: holds {len(found)} methods ({', '.join(found)}): say which one, "
            f"`file: {path.name}:{next(iter(found))}`"
        )
    method = found[name] if name is not None else next(iter(found.values()))
    if faults := class_faults(method):
        raise UserError([f"{path}: {fault}" for fault in faults])
    return method


@functools.cache
def _executed(path: Path, changed: int, size: int) -> ModuleType:
    """The file as a module; it is known by name, which dataclasses and annotations look up."""
    digest = hashlib.sha256(f"{path} {changed}".encode()).hexdigest()[:12]
    name = f"{_PREFIX}{path.stem}_{digest}"
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


def class_faults(cls: type[Method]) -> list[str]:
    """What is wrong with a method's class: its name, what it says it keeps, its hooks."""
    found = []
    name = getattr(cls, "name", None)
    if not isinstance(name, str):
        found.append(f"{cls.__name__} has no name: add name = '...' to the class")
    elif not name.strip() or "/" in name or not name.isprintable():
        found.append(f"{cls.__name__}.name: {name!r}: a word or more, on one line, without a /")
    if not (isinstance(cls.options_type, type) and issubclass(cls.options_type, Options)):
        found.append(f"{cls.__name__}.options_type: a class derived from Options is needed")
    if not isinstance(cls.train_defaults, Mapping):
        found.append(f"{cls.__name__}.train_defaults: a mapping of keys of train: is needed")
    else:
        from cl_bench.config.schema import TrainConfig

        known = TrainConfig.model_fields
        found += [
            f"{cls.__name__}.train_defaults: {key!r}{nearest(str(key), known)}"
            for key in cls.train_defaults
            if key not in known
        ]
    kept = [cls.keeps] if isinstance(cls.keeps, str) else cls.keeps
    for one in kept if isinstance(kept, tuple | list) else [kept]:
        if one not in get_args(Kept):
            found.append(f"{cls.__name__}.keeps: {one!r}{nearest(str(one), get_args(Kept))}")
    if inspect.isgeneratorfunction(cls.scored):
        found.append(
            f"{cls.__name__}.scored: must be a context manager: put @contextmanager (of "
            "contextlib) above it"
        )
    return found + hook_faults(cls)


_RENAMED = {
    "cost": "is called adds now, and returns only what the method adds (cl_bench/costs/added.py); "
    "what its plan trains is said by trains (cl_bench/costs/trained.py)"
}
"""Hooks of earlier versions that no nearest name points to."""


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
            if name in _RENAMED and name not in known:
                found.append(f"{owner.__name__}.{name}: {_RENAMED[name]}")
            elif name not in known:
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


@contextmanager
def user_errors() -> Iterator[None]:
    """An error inside that went through a method's own file says where: file, line, function.

    It becomes a RunError; messages of ours keep their type. Errors from elsewhere pass.
    """
    try:
        yield
    except DivergedError:
        raise
    except UserError as error:
        where = _place(error)
        if where is None or error.faults[0].startswith(where):
            raise
        raise UserError([f"{where}: {fault}" for fault in error.faults]) from error
    except (Exception, SystemExit) as error:  # a hook must not end the program in silence
        where = _place(error)
        if where is None or str(error).startswith(where):
            raise
        what = "" if isinstance(error, RunError) else f"{type(error).__name__}: "
        raise RunError(f"{where}: {what}{' '.join(str(error).split())}") from error


def _place(error: BaseException) -> str | None:
    """The innermost line of a method's own file that an error went through."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).startswith(_PREFIX):
            code = frame.f_code
            found = f"{code.co_filename}, line {line}, in {code.co_name}"
    return found
