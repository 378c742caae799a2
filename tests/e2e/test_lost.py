"""What a run needs goes away while it runs: files, a worker, another process, the lock's owner."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cl_bench.cli import run_command
from cl_bench.evaluation.engines.remote import RemoteLM
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.forked import fork_workers, watched
from tests.helpers.interrupting import COMMAND, at_update, ended, undisturbed
from tests.helpers.launching import launched

CPU = {"ACCELERATE_USE_CPU": "true"}
BARE: dict[str, Any] = {
    "eval": {"trace": {"limit": 2}, "general": {"after": "never"}, "probes": False},
    "methods": ["kl_base"],
    "stages": [{"task": "FOMC", "limit": 8}, {"task": "trace_numglue_ds", "limit": 8}],
    "save_every": "1 update",
}
FIRST, SECOND = "stage-1-trace_fomc", "stage-2-trace_numglue_ds"


def at_first(method: str, stage: int, act: Callable[[], Any]) -> None:
    """In this process: after the first update of a stage."""
    at_update(1, act, f"{method}, seed 1, stage {stage}/")


@pytest.fixture
def whole(bench: Bench) -> dict[str, str]:
    bench.write_config(**BARE)
    return undisturbed(bench)


WAYS_ON = re.compile("run the same command again|`cl-bench run` goes on|restore it from a copy")
DISAPPEARS = [
    # (what goes away, when, what the last line of the run says; None: it is not needed any more)
    ("data", ("kl_base", 1), None),
    ("model", ("kl_base", 1), "/model'"),
    ("model/model.safetensors", ("kl_base", 1), "no file named model.safetensors"),
    (f"results/tiny/kl-base/seed-1/{FIRST}/checkpoint", ("kl_base", 2), None),
    (f"results/tiny/kl-base/seed-1/{SECOND}", ("kl_base", 2), None),
    ("results/tiny/kl-base/seed-1/run.json", ("kl_base", 1), "kl-base/seed-1/run.json"),
    ("results/tiny/base/scores.json", ("kl_base", 1), "base/scores.json"),
]


@pytest.mark.slow
def test_files_that_disappear(bench: Bench, whole: dict[str, str]) -> None:
    """Each is named, once, with the way on; when it is back the run ends as it would have."""
    kept = bench.root / "kept"
    for name, where, expected in DISAPPEARS:
        shutil.rmtree(bench.results, ignore_errors=True)
        place = bench.root / name
        code, said = ended(partial(at_first, *where, partial(shutil.move, place, kept)))
        assert kept.exists(), f"{name}: not reached: {said}"
        assert "--debug" not in said and "Traceback" not in said, said
        if expected is None:
            assert code == 0, said
        else:
            last = said.splitlines()[-1]
            assert code == 1 and expected in last and WAYS_ON.search(last), said
        if place.is_dir():
            shutil.rmtree(place)
        shutil.move(kept, place)
        code, said = ended(lambda: None)
        assert code == 0 and fingerprints(bench.results) == whole, f"{name}: {said}"


def test_a_worker_that_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's process dies in the middle of a task; those before it are not asked again."""
    fork_workers(monkeypatch)
    bench.write_config(**{**BARE, "methods": ["ori"]})
    engine = ["--engine", "hf", "--engine-args", "subprocess=true"]
    bench.must(*COMMAND, *engine)
    whole = fingerprints(bench.results)
    shutil.rmtree(bench.results)
    real, asked = RemoteLM._ask, []

    def dies(self: RemoteLM, method: str, questions: list[Any]) -> list[Any]:
        asked.append(method)
        if len(asked) == 2:
            os.kill(self._process.pid, signal.SIGKILL)
        return real(self, method, questions)

    monkeypatch.setattr(RemoteLM, "_ask", dies)
    code, _, err = bench.run(*COMMAND, *engine)
    assert code == 1 and "its process was killed (SIGKILL), perhaps for want of memory" in err, err
    assert "what is complete is kept: run the same command again to go on" in err
    assert len(asked) == 2 and "Traceback" not in err
    bench.must(*COMMAND, *engine)
    assert len(asked) == 3 and fingerprints(bench.results) == whole


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_peer_that_is_killed(bench: Bench, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a stage: the other one ends too, and both go on from the last save.

    The first one says it; where it is the one that was killed, the launcher does.
    """
    monkeypatch.setattr("cl_bench.experiment.processes.PATIENCE", 0.2)
    bench.write_config(**BARE)

    def work(own: int) -> int:
        return run_command(list(COMMAND))

    def dies(own: int) -> int:
        if own == rank:
            at_first("kl_base", 2, partial(os.kill, os.getpid(), signal.SIGKILL))
        return run_command(list(COMMAND))

    assert [one.code for one in launched(bench.root, work, environment=CPU)] == [0, 0]
    whole = fingerprints(bench.results)
    shutil.rmtree(bench.results)
    both = launched(bench.root, dies, environment=CPU, kills=False)
    assert both[rank].code == -signal.SIGKILL and both[1 - rank].code == 1, both
    if rank == 1:
        told = both[0].err.splitlines()[-1]
        assert "another process has ended, perhaps killed" in told and "to go on" in told
    assert (bench.results / "kl-base/seed-1" / FIRST / "scores.json").is_file()
    assert [one.code for one in launched(bench.root, work, environment=CPU)] == [0, 0]
    assert fingerprints(bench.results) == whole


def test_two_writers_and_a_lock_without_its_owner(bench: Bench, whole: dict[str, str]) -> None:
    """The second is refused and changes nothing; a killed owner's lock does not hold."""
    ready = bench.root / "ready"

    def waits() -> None:
        ready.touch()
        time.sleep(60)

    def first() -> int:
        at_first("kl_base", 2, waits)
        return run_command(list(COMMAND))

    process, lines = watched(first)
    while not ready.exists():
        assert process.poll() is None, lines.read()
        time.sleep(0.02)
    before = fingerprints(bench.results)
    for more in ([], ["--method", "kl_base"]):
        code, _, err = bench.run(*COMMAND, *more)
        assert code == 2 and "results/tiny: another cl-bench is working here" in err
    assert bench.run("report", "tiny")[0] == 0, "reading needs no lock"
    assert before == {n: h for n, h in fingerprints(bench.results).items() if n in before}
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and (bench.results / ".lock").exists()
    lines.close()
    bench.must(*COMMAND)
    assert fingerprints(bench.results) == whole
