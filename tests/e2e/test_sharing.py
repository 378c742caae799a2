"""Several starts of one config share an experiment's folder, and its end is that of one alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cl_bench.cli import run_command
from cl_bench.experiment import sharing
from cl_bench.progress import Reporter
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.forked import Forked, watched
from tests.helpers.interrupting import at_update, undisturbed

SMALL = {
    "methods": ["sft", {"name": "fggm", "alpha": 0.5}],
    "seeds": [1, 2],
    "stages": [{"task": "FOMC", "limit": 8}],
    "eval": {"trace": {"limit": 2}, "general": {"tasks": ["piqa"], "limit": 2}, "probes": False},
}
SHARED = ["run", "tiny.yaml", "--share"]


@pytest.fixture
def alone(bench: Bench) -> dict[str, str]:
    bench.write_config(**SMALL)
    return undisturbed(bench)


def sharer(prepare: Callable[[], Any] = lambda: None) -> tuple[Forked, list[str]]:
    """A start in a process of its own, whose runs take long enough for two to meet."""

    def work() -> int:
        sharing.SECONDS = 0.1
        begin = Reporter.begin

        def slowly(self: Reporter, label: str) -> None:
            time.sleep(0.4)
            begin(self, label)

        Reporter.begin = slowly  # type: ignore[method-assign]
        prepare()
        return run_command(SHARED)

    process, lines = watched(work)
    said: list[str] = []
    threading.Thread(target=lambda: said.extend(lines), daemon=True).start()
    return process, said


def trained(said: list[str]) -> set[str]:
    return set(re.findall(r"(\w+, seed \d), stage 1/1 trace_fomc: training", "".join(said)))


def comparable(bench: Bench) -> dict[str, str]:
    apart = (".opening.lock", "status-")
    return {n: s for n, s in fingerprints(bench.results).items() if not n.startswith(apart)}


def test_two_starts_divide_the_runs(bench: Bench, alone: dict[str, str]) -> None:
    both = [sharer(), sharer()]
    assert [process.wait() for process, _ in both] == [0, 0], both
    time.sleep(0.2)
    first, second = (trained(said) for _, said in both)
    assert first and second, "each had something to do"
    assert not first & second and len(first | second) == 4
    assert comparable(bench) == alone
    assert sum("base model: scoring" in "".join(said) for _, said in both) == 1
    assert not list(bench.results.glob("status-*.json"))
    assert bench.run("verify", "tiny")[0] == 0
    assert "every run that was begun is finished" in bench.must("status", "tiny")


def test_what_a_dead_one_was_at_is_taken_up(bench: Bench, alone: dict[str, str]) -> None:
    def dies() -> None:
        at_update(1, lambda: os.kill(os.getpid(), signal.SIGKILL))

    first, said = sharer(dies)
    assert first.wait() == -signal.SIGKILL, said
    both = [sharer(dies), sharer()]
    assert [process.wait() for process, _ in both] == [-signal.SIGKILL, 0], both
    time.sleep(0.2)
    assert len(trained(both[1][1])) == 4
    assert len(list(bench.results.glob("status-*.json"))) == 1, "of the last that was killed"
    assert comparable(bench) == alone


def test_who_works_alone_is_not_disturbed(bench: Bench) -> None:
    bench.write_config(**SMALL)
    for shared, other in ((SHARED, SHARED[:2]), (SHARED[:2], SHARED)):
        ready, reached = os.pipe()
        release, go = os.pipe()

        def waits(reached: int = reached, release: int = release) -> None:
            os.write(reached, b"x")
            os.read(release, 1)

        def work(shared: list[str] = shared, waits: Callable[[], None] = waits) -> int:
            at_update(1, waits)
            return run_command(shared)

        reading, writing = os.pipe()
        process = Forked(work, writing, keep=[reached, release])
        os.close(writing)
        assert os.read(ready, 1) == b"x"
        if shared == SHARED:
            assert "running on" in bench.must("status", "tiny")
        code, _, err = bench.run(*other)
        assert code == 2 and ("--share" in err if other != SHARED else "working here" in err), err
        os.write(go, b"x")
        assert process.wait() == 0
        for end in (ready, reached, release, go, reading):
            os.close(end)
        shutil.rmtree(bench.results)
