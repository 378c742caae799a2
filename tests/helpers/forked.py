"""One process more, forked from a test that has imported everything: what `Popen` is to commands.

A new interpreter takes seconds to import torch and lm-eval. Only tests whose subject is that start
need one; to kill, to interrupt or to talk to a process, a fork does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cl_bench.evaluation.engines import remote, worker

HIGHEST = 1024
"""File descriptors below it are closed in the child, as `Popen` does."""


class Forked:
    """`work()` in a child; its result is the exit code. Standard output goes where errors go."""

    def __init__(
        self, work: Callable[[], int], errors: int, keep: Sequence[int] = (), leads: bool = False
    ) -> None:
        """`errors`: the descriptor that the child writes to. `leads`: it has its own session."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _child(work, errors, keep, leads)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 120.0) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("fork", timeout)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def _child(work: Callable[[], int], errors: int, keep: Sequence[int], leads: bool) -> None:
    code = 1
    try:
        if leads:
            os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        begin = 3
        for kept in sorted(keep):
            os.closerange(begin, kept)
            begin = kept + 1
        os.closerange(begin, HIGHEST)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        # Makes torch's pool anew: threads that were the first to ask for it in a fork could meet.
        torch.set_num_threads(1)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def watched(work: Callable[[], int]) -> tuple[Forked, Any]:
    """A child, and what it writes as a text file to read."""
    reading, writing = os.pipe()
    child = Forked(work, writing)
    os.close(writing)
    return child, os.fdopen(reading)


def fork_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines in a process of their own: forked, and otherwise as `remote.py` starts them."""

    def started(command: list[str], *, stdout: Any, pass_fds: Any, **_: Any) -> Forked:
        assert command[:2] == [sys.executable, str(remote.WORKER)]
        socket, parent = map(int, command[2:])

        def work() -> int:
            worker.main(socket, parent)
            return 0

        return Forked(work, stdout.fileno(), pass_fds, leads=True)

    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "TimeoutExpired")}
    monkeypatch.setattr(remote, "subprocess", SimpleNamespace(Popen=started, **names))
