"""`run --parallel` on a real Ray: the end is that of a run alone, whoever is killed on the way."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cl_bench.cli import run_command
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.forked import Forked, watched
from tests.helpers.interrupting import undisturbed

REPOSITORY = Path(__file__).resolve().parents[2]
HALTED = Path("halted")
HALTING = '''
"""Plain training that waits in its second update, the first time that it comes there."""

import os
import time
from pathlib import Path

from cl_bench.methods.base import Method


class Halting(Method):
    name = "halting"

    def before_step(self, step):
        if step.number == 2 and not Path("halted").exists():
            Path("halted.tmp").write_text(str(os.getpid()))
            Path("halted.tmp").replace("halted")
            while not Path("go").exists():
                time.sleep(0.02)
'''
CONFIG = {
    "methods": ["sft", {"file": "halting.py"}],
    "stages": [{"task": "FOMC", "limit": 8, "epochs": 2}],
    "eval": {"trace": {"limit": 2}, "general": {"tasks": ["piqa"], "limit": 2}, "probes": False},
    "save_every": "1 updates",
}
RUN = ["run", "tiny.yaml", "--parallel"]


@pytest.fixture
def alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What a run alone leaves. Ray's own files lie in a folder whose name is short enough."""
    (bench.root / "halting.py").write_text(HALTING)
    bench.write_config(**CONFIG)
    HALTED.touch()
    found = undisturbed(bench)
    HALTED.unlink()
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield found
    shutil.rmtree(folder, ignore_errors=True)


def left(bench: Bench) -> dict[str, str]:
    apart = (".opening.lock",)
    return {n: s for n, s in fingerprints(bench.results).items() if n not in apart}


def started(*address: str) -> tuple[Forked, list[str]]:
    """A driver, and the lines that it will say."""
    import threading

    process, lines = watched(lambda: run_command([*RUN, *(address or ("ray",))]))
    said: list[str] = []
    threading.Thread(target=lambda: said.extend(lines), daemon=True).start()
    return process, said


def halted(process: Forked, said: list[str]) -> int:
    """The process that waits in the middle of a run."""
    end = time.monotonic() + 120
    while not HALTED.exists():
        assert process.poll() is None and time.monotonic() < end, "".join(said)
        time.sleep(0.05)
    return int(HALTED.read_text())


def kill_with_its_worker(pid: int) -> None:
    """Ray's worker first, then the process that it started: neither can say anything."""
    worker = psutil.Process(pid).parent()
    assert worker is not None and "ray::" in worker.cmdline()[0], worker
    for each in (worker.pid, pid):
        os.kill(each, signal.SIGKILL)


def test_a_worker_that_is_killed_changes_nothing(bench: Bench, alone: dict[str, str]) -> None:
    process, said = started("ray", "--per-run", "cpus=1")
    kill_with_its_worker(halted(process, said))
    assert process.wait(120) == 0, "".join(said)
    text = "".join(said)
    assert "retry 1 of 3" in text and "goes on" in text
    assert left(bench) == alone
    assert bench.run("verify", "tiny")[0] == 0
