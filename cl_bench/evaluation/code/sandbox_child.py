"""The process that runs a program of a model: `sandbox.py` starts it. Standard library only.

    python -I -S sandbox_child.py FD < request

The request is JSON with `program`, `token` and `limits` (seconds of CPU, bytes of memory and of a
file, processes, open files). Lines on FD: `active <protection>`, and at the end `<token> passed` or
`failed <why>`, from the program's first process alone. The program runs in a child: in a user,
network and process namespace of its own where the kernel allows it, and always under resource
limits. When this process is told to end (SIGTERM) or twice the seconds are over, it kills the
child, and with it all of its namespace.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

NEW_USER, NEW_PID, NEW_NET = 0x10000000, 0x20000000, 0x40000000
"""Flags of Linux's unshare(2)."""


def isolate() -> list[str]:
    """Leave the network, and let the next child be the first of a process namespace of its own."""
    if not sys.platform.startswith("linux"):
        return []
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    active = []
    if unshare(NEW_USER | NEW_NET) == 0:
        active.append("network")
        if unshare(NEW_PID) == 0:
            active.append("processes")
    return active


def limit(limits: dict[str, int]) -> list[str]:
    """Set resource limits; returns `memory` where that one holds (macOS refuses it)."""
    import resource

    known = {
        "seconds": resource.RLIMIT_CPU,
        "file": resource.RLIMIT_FSIZE,
        "processes": resource.RLIMIT_NPROC,
        "files": resource.RLIMIT_NOFILE,
    }
    for name, kind in known.items():
        resource.setrlimit(kind, (limits[name], limits[name]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limits["memory"], limits["memory"]))
    except (ValueError, OSError):
        return []
    return ["memory"]


def run(request: dict[str, Any], report: int) -> None:
    """Run the program in this process and say how it ended; never returns."""
    outcome = f"{request['token']} passed"
    first = os.getpid()
    try:
        for protection in limit(request["limits"]):
            os.write(report, f"active {protection}\n".encode())
        exec(compile(request["program"], "program.py", "exec"), {"__name__": "__main__"})
    except MemoryError:
        outcome = "failed memory"
    except BaseException as error:
        outcome = f"failed {type(error).__name__}"
    if os.getpid() == first:  # a process that the program forked comes here too
        os.write(report, f"{outcome}\n".encode())
    os._exit(0)


def main(report: int) -> None:
    """Isolate, fork, run, and say what killed the program if something did."""
    request = json.load(sys.stdin)
    for protection in isolate():
        os.write(report, f"active {protection}\n".encode())
    child = os.fork()
    if child == 0:
        run(request, report)
    for end in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(end, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(2 * request["limits"]["seconds"])
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        late = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        os.write(report, b"failed timeout\n" if late else b"failed signal\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
