"""Printing that cannot fail a run: consoles of any encoding, full disks, closed pipes."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from typing import IO

_PLAIN = {"±": "+-", "Δ": "d", "–": "-", "—": "-", "…": "...", "×": "x", "’": "'"}
_ERRORS = "cl-bench-plain"


def in_ascii(text: str) -> str:
    """`text` in ASCII: signs and accented letters by what looks like them, others by number."""
    return "".join(
        _PLAIN.get(char)
        or unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
        or char.encode("ascii", "backslashreplace").decode()
        for char in text
    )


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


def print_anything() -> None:
    """Let standard output and error print what their encoding lacks, in plain letters."""
    codecs.register_error(_ERRORS, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def say(text: str) -> None:
    """A line on standard error, at once. Where it cannot be written, work goes on without it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def columns(most: int = 100, least: int = 40) -> int | None:
    """The width of the terminal within limits; None into a file or a pipe."""
    try:
        return max(least, min(most, os.get_terminal_size(sys.stdout.fileno()).columns))
    except (OSError, ValueError):
        return None


def finish_output(code: int) -> int:
    """Write out what is still buffered; the exit code, 1 where standard output did not take all."""
    for name, stream in (("standard output", sys.stdout), ("standard error", sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            if not isinstance(error, BrokenPipeError):  # `| head` has what it wants
                say(f"cl-bench: failed: {name}: {error.strerror}")
            _discard(stream)
            code = code or 1
    return code


def _discard(stream: IO[str]) -> None:
    """Python flushes again at its end, and would complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
