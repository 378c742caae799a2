"""Several starts of one config at once, on one host or many: each takes runs that nobody is at.

Opening an experiment (its config, the base model's scores, every `run.json`) is done by one after
the other, under two locks: sharers wait for each other's `.opening.lock`; whoever works alone holds
`.lock` to its end, and is never waited for. Each run has a lock of its own while it is trained and
scored. A lock ends with its process, so what a process that died was at is taken up by the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cl_bench.errors import UserError
from cl_bench.methods.spec import RunSpec
from cl_bench.store.folders import RunFolder, locked
from cl_bench.store.status_file import drop_gone

if TYPE_CHECKING:
    from cl_bench.experiment.workplace import Workplace

SECONDS = 5.0
"""Between two looks whether a run that another process was at is free, or done."""
LOCK = ".lock"


def place_of(folder: Path, run: RunSpec) -> RunFolder:
    """Where a run of the experiment in `folder` lies."""
    return RunFolder(folder / run.slug / f"seed-{run.seed}")


@contextmanager
def opening(folder: Path, share: bool, say: Callable[[str], None]) -> Iterator[None]:
    """While open, nobody else opens the experiment; without `share` nobody works in it either.

    Raises UserError where that cannot be.
    """
    if not share:
        with locked(folder):
            yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _waited_for(FileLock(folder / ".opening.lock"), folder, say), locked(folder):
        drop_gone(folder)
        yield


@contextmanager
def _waited_for(lock: FileLock, folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{folder}: waiting for another process, which opens the experiment")
        lock.acquire(timeout=-1)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def held(place: RunFolder) -> Iterator[bool]:
    """While open, the run is this process's; false: another one is at it."""
    place.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.path / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def refuse_sharers(folder: Path, runs: Sequence[RunSpec]) -> None:
    """Raise UserError where a run of a process that shares the folder is being made."""
    for run in runs:
        place = place_of(folder, run)
        if not (place.path / LOCK).exists():
            continue
        with held(place) as mine:
            if not mine:
                raise UserError(
                    f"{folder}: another `cl-bench run --share` is at {run.label}, seed {run.seed}: "
                    "give --share too, or wait for its end"
                )


def each(
    work: Workplace, runs: Sequence[RunSpec], folder: Path, share: bool
) -> Iterator[tuple[RunSpec, RunFolder]]:
    """The runs in their order, each held while it is worked on; of those that others are at the
    rest first, then each as it becomes free: done, or to be gone on with.

    In all processes of this start the same.
    """
    left = list(runs)
    while left:
        before = len(left)
        for run in list(left):
            place = place_of(folder, run)
            with _held_by_first(work, place) as mine:
                if mine:
                    left.remove(run)
                    yield run, place
                elif not share:
                    raise UserError(f"{place.path}: another cl-bench is working here")
        if len(left) == before:
            time.sleep(SECONDS)


@contextmanager
def _held_by_first(work: Workplace, place: RunFolder) -> Iterator[bool]:
    if not work.first_process:
        yield work.processes.agreed(0) == 1
        return
    with held(place) as mine:
        yield work.processes.agreed(int(mine)) == 1
