"""Runs programs that a model wrote, each in a process with limits (sandbox_child.py).

What it does not protect from is in docs/code-execution.md: it keeps accidents away (endless loops,
full memory, a call to a server), not an attacker.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

JAIL = Path(__file__).with_name("sandbox_child.py")
WANTED = ("network", "processes", "memory")
"""Protections that not every platform has; limits of time and files are always there."""
_LONGEST_REPORT = 4096


@dataclass(frozen=True)
class SandboxLimits:
    """Of one program: CPU seconds, bytes of memory and of a file, processes, open files."""

    seconds: int = 5
    memory: int = 2**30
    file: int = 2**20
    processes: int = 8
    files: int = 64


@dataclass(frozen=True)
class Verdict:
    """How a program ended. `reason`: passed, timeout, memory, the exception's name, or exited."""

    passed: bool
    reason: str
    protections: tuple[str, ...] = ()


def run_program(program: str, limits: SandboxLimits | None = None) -> Verdict:
    """Run Python source text; it passed if it came to its end without an exception.

    It starts with an empty environment in an empty folder that is removed afterwards; what it
    prints is dropped. It may take twice its CPU seconds by the wall clock. Raises OSError where the
    platform has no limits (Windows).
    """
    if sys.platform == "win32":
        raise OSError("code cannot be limited on Windows")
    limits = limits or SandboxLimits()
    token = secrets.token_hex(16)
    request = {"program": program, "token": token, "limits": asdict(limits)}
    read, write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(JAIL), str(write)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            pass_fds=(write,),
            start_new_session=True,
        )
        os.close(write)
        try:
            assert process.stdin is not None
            with process.stdin:
                process.stdin.write(json.dumps(request).encode())
            lines = _report(read, time.monotonic() + 2 * limits.seconds, token)
        finally:
            os.close(read)
            _end(process)
    return _verdict(lines, token)


def _report(read: int, deadline: float, token: str) -> list[str]:
    """Lines until one says how it ended, the pipe closes, or time is over."""
    text = b""
    while len(text) < _LONGEST_REPORT:
        ready, _, _ = select.select([read], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return [*text.decode(errors="replace").splitlines(), "failed timeout"]
        part = os.read(read, _LONGEST_REPORT)
        text += part
        lines = text.decode(errors="replace").splitlines()
        if not part or any(line.startswith(("failed ", token)) for line in lines):
            return lines
    return text.decode(errors="replace").splitlines()


def _end(process: subprocess.Popen[bytes]) -> None:
    """The jail kills the program; what is left of its group goes with it."""
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _verdict(lines: list[str], token: str) -> Verdict:
    active = tuple(name for name in WANTED if f"active {name}" in lines)
    if f"{token} passed" in lines:
        return Verdict(True, "passed", active)
    reasons = [line.removeprefix("failed ") for line in lines if line.startswith("failed ")]
    return Verdict(False, reasons[0] if reasons else "exited", active)


def missing_protections() -> list[str]:
    """Those of `WANTED` that this platform does not give."""
    found = run_program("pass").protections
    return [name for name in WANTED if name not in found]
