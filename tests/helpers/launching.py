"""Several processes of the command, forked from a test that has imported everything already."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Ended:
    """One process: its exit code (negative: the signal), and what it printed."""

    code: int
    out: str
    err: str


def launched(
    folder: Path,
    work: Callable[[int], int],
    world: int = 2,
    environment: Mapping[str, str] | None = None,
    kills: bool = True,
) -> list[Ended]:
    """`work(rank)` in `world` processes, with the environment that torchrun gives.

    As torchrun does, ends all with SIGTERM when one fails, unless `kills` is false.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(world):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _child(folder, work, rank, world, port, environment or {})
        children.append(child)
    codes = _await(children, kills)
    return [
        Ended(code, (folder / f"{rank}.out").read_text(), (folder / f"{rank}.err").read_text())
        for rank, code in enumerate(codes)
    ]


def _child(
    folder: Path,
    work: Callable[[int], int],
    rank: int,
    world: int,
    port: int,
    environment: Mapping[str, str],
) -> None:
    code = 99
    try:
        for name, number in (("out", 1), ("err", 2)):
            file = os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        os.environ.update(
            {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(world),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(world),
                "OMP_NUM_THREADS": "1",
                **environment,
            }
        )
        from accelerate.state import AcceleratorState, PartialState

        torch.set_num_threads(1)  # see forked.py
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()
        code = work(rank)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _await(children: list[int], kills: bool, limit: float = 120.0) -> list[int]:
    codes: dict[int, int] = {}
    began = time.monotonic()
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    codes[child] = os.waitstatus_to_exitcode(status)
        overdue = time.monotonic() - began > limit
        if overdue or (kills and any(codes.values())):
            for child in set(children) - codes.keys():
                os.kill(child, signal.SIGKILL if overdue else signal.SIGTERM)
                codes[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.02)
    assert time.monotonic() - began <= limit, "hung"
    return [codes[child] for child in children]
