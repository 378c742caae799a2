"""Runs in a process of their own that something happens to: signals, lost files, full disks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

from cl_bench.cli import run_command
from cl_bench.progress import Reporter
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.forked import watched

COMMAND = ("run", "tiny.yaml")


def at_update(number: int, act: Callable[[], Any], where: str = "") -> None:
    """In this process: `act`, once, when that update of a stage is done.

    `where`: how the stage's label begins; any stage by default.
    """
    begin, step, place = Reporter.begin, Reporter.step, [""]
    left = [act]

    def begun(self: Reporter, label: str) -> None:
        place[0] = label
        begin(self, label)

    def told(self: Reporter, record: Any, total: int) -> None:
        step(self, record, total)
        if left and record["step"] == number and place[0].startswith(where):
            left.pop()()

    Reporter.begin, Reporter.step = begun, told  # type: ignore[method-assign]


def ended(prepare: Callable[[], Any], command: Sequence[str] = COMMAND) -> tuple[int, str]:
    """Exit code and output of a command in a child that prepares something first."""
    process, lines = watched(lambda: (prepare(), run_command(list(command)))[1])
    said = "".join(lines)
    lines.close()
    return process.wait(), said


def undisturbed(bench: Bench) -> dict[str, str]:
    """Checksums of what a run of its config leaves; the results are removed again."""
    bench.must(*COMMAND)
    found = fingerprints(bench.results)
    shutil.rmtree(bench.results)
    return found
