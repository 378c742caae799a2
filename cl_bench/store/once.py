"""Reading every file once: for commands that read much and change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

_KNOWN: ContextVar[dict[tuple[str, Path], Any] | None] = ContextVar("known", default=None)


@contextmanager
def each_file_once() -> Iterator[None]:
    """Within, `once` keeps what it has read; what it returns must not be changed."""
    token = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def once(kind: str, path: Path, read: Callable[[], Any]) -> Any:
    """`read()`, or what it gave for this file before; errors are not kept."""
    known = _KNOWN.get()
    if known is None:
        return read()
    if (kind, path) not in known:
        known[kind, path] = read()
    return known[kind, path]
