"""`run --parallel` on a real Ray: the end is that of a run alone, whoever is killed on the way."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cl_bench.cli import run_command
from cl_bench.parallel import driver, ray_cluster
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.forked import Forked, watched
from tests.helpers.interrupting import ended, undisturbed

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
DRIVERS: list[Forked] = []
"""In processes of their own: Ray's threads must not be where others are forked from."""


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
    token = Path(folder, "token")  # not the user's own, which Ray would write
    token.write_text("0" * 32)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield found
    for process in DRIVERS:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
    DRIVERS.clear()
    shutil.rmtree(folder, ignore_errors=True)


def left(bench: Bench) -> dict[str, str]:
    apart = (".opening.lock", "status-")
    return {n: s for n, s in fingerprints(bench.results).items() if not n.startswith(apart)}


def started(*address: str) -> tuple[Forked, list[str]]:
    """A driver, and the lines that it will say."""

    process, lines = watched(lambda: run_command([*RUN, *(address or ("ray",))]))
    DRIVERS.append(process)
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


def test_an_address_that_does_not_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int
) -> None:
    monkeypatch.setattr(ray_cluster, "CONNECTING", 2.0)
    for command in ("plan", "run"):
        address = f"ray:127.0.0.1:{free_tcp_port}"
        code, _, err = bench.run(command, "tiny.yaml", "--parallel", address)
        assert code == 2 and f"--parallel {address}: no answer within 2 s" in err
    assert not bench.results.exists()


@pytest.fixture
def two_nodes(alone: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of the cluster that docs/clusters.md begins, and the process of its second node.

    Not `ray stop`, which would end everything of Ray's on this machine.
    """
    page = (REPOSITORY / "docs" / "clusters.md").read_text()
    lines = re.findall(r"^\$ ray (start .*)$", page, re.MULTILINE)
    (address,) = re.findall(r"^\$ cl-bench run configs/quickstart.yaml (.*)$", page, re.MULTILINE)
    assert len(lines) == 2 and address.startswith("--parallel ray:127.0.0.1:")
    program = Path(sys.executable).with_name("ray")
    nodes = []
    for line in lines:
        words = [program, *line.split(), "--block", "--object-store-memory", "80000000"]
        node = subprocess.Popen(
            words, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        nodes.append(node)
        assert node.stdout is not None
        assert any(b"Ray runtime started" in said for said in node.stdout)
    yield address.split()[1], nodes[1]
    for node in nodes:
        end(node)


def end(node: subprocess.Popen[bytes]) -> None:
    """A node with all that it has started."""
    if node.poll() is None:
        children = psutil.Process(node.pid).children(recursive=True)
        for each in (psutil.Process(node.pid), *children):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    node.wait()


@pytest.mark.slow
def test_two_nodes_of_which_one_is_killed(
    bench: Bench, alone: dict[str, str], two_nodes: tuple[str, subprocess.Popen[bytes]]
) -> None:
    address, second = two_nodes
    code, planned = ended(lambda: None, ["plan", "tiny.yaml", "--parallel", address])
    assert code == 0 and "ray: 2 hosts, 1 core a run: 2 of 2 runs at once" in planned
    process, lines = started(address)
    pid = halted(process, lines)
    nodes = {each.pid for each in psutil.Process(second.pid).children(recursive=True)}
    if pid in nodes:
        end(second)
    else:  # the driver's own node cannot be killed: the worker there
        kill_with_its_worker(pid)
    assert process.wait(120) == 0, "".join(lines)
    assert "retry 1 of 3" in "".join(lines) and left(bench) == alone


@pytest.mark.slow
@pytest.mark.parametrize("given", ["another", "none", "off"])
def test_a_cluster_wants_the_token_that_it_was_started_with(
    bench: Bench,
    two_nodes: tuple[str, subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    given: str,
) -> None:
    """It takes whoever has it (`two_nodes` and every other test do), and nobody else."""
    other = tmp_path / "token"
    if given == "another":
        other.write_text("1" * 32)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(other))
    if given == "off":
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    code, _, err = bench.run(*RUN, two_nodes[0])
    assert code == 2 and "wants its token: set RAY_AUTH_MODE=token" in err, err
    assert not (bench.results / "base").exists()


@pytest.mark.slow
def test_a_host_that_is_not_alike(
    bench: Bench, two_nodes: tuple[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not in `on_host` itself: Ray sends it to the hosts as it is here.
    here = SimpleNamespace(facts=lambda: {"torch": "1.0", "transformers": "2.0"})
    monkeypatch.setattr(driver, "on_host", here)
    code, said = ended(lambda: None, [*RUN, two_nodes[0]])
    assert code == 2, said
    assert "torch is 2" in said and "the driver has 1.0" in said and "transformers is" in said
    assert not (bench.results / "base").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_is_ended_ends_its_tasks(
    bench: Bench, alone: dict[str, str], number: int
) -> None:
    process, said = started("ray", "--per-run", "cpus=1")
    pid = halted(process, said)
    process.send_signal(number)
    time.sleep(3)
    Path("go").touch()
    if number == signal.SIGINT:
        assert process.wait(60) == 130, "".join(said)
        assert "stopping: the runs save" in "".join(said) and "interrupted" in "".join(said)
    else:
        assert process.wait(60) == -signal.SIGKILL
    end_of = time.monotonic() + 60
    while psutil.pid_exists(pid):
        assert time.monotonic() < end_of
        time.sleep(0.1)
    assert list(bench.results.glob("halting/seed-1/*/midway")), "it saved what it was at"
    process, said = started("ray", "--per-run", "cpus=1")
    assert process.wait(120) == 0, "".join(said)
    assert left(bench) == alone
