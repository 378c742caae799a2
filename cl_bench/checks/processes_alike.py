"""Processes that train and score together: do they read the same, and see the same folder?

Each may be on a host of its own, with its own copy of code, data and model.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cl_bench.errors import UserError
from cl_bench.evaluation.crew import Crew
from cl_bench.store.folders import sha256_of

SLOW = 10.0
"""Seconds after which a file that one host writes is seen by the others, on a slow network disk."""


def check_alike(together: Crew, mine: Mapping[str, Any]) -> None:
    """Raises UserError in all where a process has another value under one of the keys.

    Values are compared by checksum where they are no texts.
    """
    if together.world == 1:
        return
    short = {k: v if isinstance(v, str) else sha256_of(v)[:12] for k, v in mine.items()}
    everyone = together.gathered(short)
    if faults := together.said(list(_differences(everyone)) if everyone else None):
        raise UserError(faults)


def _differences(everyone: Sequence[Mapping[str, str]]) -> Iterator[str]:
    first = everyone[0]
    for key, value in first.items():
        others = {rank: own.get(key, "none") for rank, own in enumerate(everyone)}
        if odd := {rank: one for rank, one in others.items() if one != value}:
            ranks = ", ".join(map(str, odd))
            several = "es" if len(odd) > 1 else ""
            yield (
                f"{key}: process 0 has {value}, process{several} {ranks} "
                f"{'have' if several else 'has'} {' and '.join(sorted(set(odd.values())))}: give "
                "all processes the same"
            )


def check_shared(together: Crew, folder: Path) -> None:
    """Raises UserError in all where a process does not see what the first one writes.

    `folder`: where this process would write; until it exists, its nearest parent stands for it.
    """
    if together.world == 1:
        return
    places = (folder.absolute(), *folder.absolute().parents)
    first = together.rank == 0
    level = together.said(next(i for i, path in enumerate(places) if path.is_dir()))
    name = together.said(f".seen-by-all-{os.getpid()}-{secrets.token_hex(4)}")
    file = places[min(level, len(places) - 1)] / name
    fault = ""
    if first:
        try:
            file.touch()
        except OSError as error:
            fault = f"{file.parent}: {error.strerror}"
    if fault := together.said(fault):
        raise UserError(fault)
    seen = together.gathered(_seen(file))
    if first:
        file.unlink(missing_ok=True)
    if blind := together.said([str(rank) for rank, sees in enumerate(seen) if not sees]):
        raise UserError(
            f"--results: process {', '.join(blind)} does not see what process 0 writes in "
            f"{together.said(str(file.parent))}: give a folder that all hosts share"
        )


def _seen(file: Path) -> bool:
    end = time.monotonic() + SLOW
    while not file.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
        with suppress(OSError):
            next(file.parent.iterdir(), None)  # has network disks look again
    return True
