"""A stage that is told to stop saves, goes on there, and trusts nothing that is not its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from typing import Any

import pytest

from cl_bench.cli import run_command
from cl_bench.experiment.midway.stops import Stops
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.interrupting import COMMAND, at_update, ended, undisturbed
from tests.helpers.launching import launched

BARE = {
    "eval": {"trace": {"limit": 1}, "general": {"after": "never"}, "probes": False},
    "methods": [{"name": "lora", "dropout": 0.1}],
    "stages": [{"task": "FOMC", "limit": 12, "epochs": 4}],
}


def signalled(update: int, *numbers: int) -> Callable[[], None]:
    """The run of this process gets signals when it has done so many updates."""

    def send() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return lambda: at_update(update, send)


def midway(bench: Bench) -> list[str]:
    return sorted(p.name for p in bench.results.glob("*/seed-1/stage-1*/midway/update-*"))


@pytest.fixture
def whole(bench: Bench) -> dict[str, str]:
    bench.write_config(**BARE)
    return undisturbed(bench)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_told_to_stop(bench: Bench, whole: dict[str, str], name: str) -> None:
    code, said = ended(signalled(5, getattr(signal, name)))
    assert code == 130 and "interrupted" in said.splitlines()[-1] and "Traceback" not in said
    assert midway(bench) == ["update-5"]
    code, said = ended(signalled(9, getattr(signal, name)))
    assert code == 130 and midway(bench) == ["update-9"]
    (spare,) = bench.results.glob("*/seed-1/stage-1*/midway/.spare")
    place = spare.stat().st_ino
    assert ended(signalled(10, getattr(signal, name)))[0] == 130
    (saved,) = bench.results.glob("*/seed-1/stage-1*/midway/update-10/engine.safetensors")
    assert saved.stat().st_ino == place, "a save is written over the one before the last"
    assert bench.run("verify", "tiny")[0] == 0
    bench.must(*COMMAND)
    assert fingerprints(bench.results) == whole and midway(bench) == []


def test_told_twice_ends_at_once(bench: Bench) -> None:
    bench.write_config(**BARE)
    code, _ = ended(signalled(5, signal.SIGINT, signal.SIGINT))
    assert code == 130 and midway(bench) == []


def test_what_is_ignored_stays_ignored(bench: Bench, whole: dict[str, str]) -> None:
    def with_nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signalled(5, signal.SIGHUP)()

    code, said = ended(with_nohup)
    assert code == 0, said
    assert fingerprints(bench.results) == whole


def test_never_saved(bench: Bench) -> None:
    bench.write_config(**BARE, save_every=False)
    code, _ = ended(signalled(5, signal.SIGTERM))
    assert code == 130 and midway(bench) == []


def test_of_other_settings(bench: Bench) -> None:
    """Nothing of the run is bound yet, so that it may change; then what was saved is not its."""
    bench.write_config(**BARE)
    assert ended(signalled(5, signal.SIGTERM))[0] == 130
    changed = [*COMMAND, "-o", "train.lr=1e-4"]
    bench.must(*changed)
    found = fingerprints(bench.results)
    shutil.rmtree(bench.results)
    bench.must(*changed)
    assert fingerprints(bench.results) == found


def test_of_other_data(bench: Bench) -> None:
    bench.write_config(**BARE)
    assert ended(signalled(5, signal.SIGTERM))[0] == 130
    file = bench.root / "data" / "trace" / "FOMC" / "train.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([*rows[1:], rows[0]]))
    shutil.rmtree(bench.results / "base")  # which is bound to data, too
    code, _, err = bench.run(*COMMAND)
    assert code == 0 and "begins again" in err
    found = fingerprints(bench.results)
    shutil.rmtree(bench.results)
    bench.must(*COMMAND)
    assert fingerprints(bench.results) == found


@pytest.mark.parametrize(
    "name", ["engine.safetensors", "process-0.json", "about.json", "belongs.json", "log"]
)
def test_damaged(bench: Bench, whole: dict[str, str], name: str) -> None:
    assert ended(signalled(5, signal.SIGTERM))[0] == 130
    (update,) = bench.results.glob("lora/seed-1/stage-1*/midway/update-5")
    own = {"log": update.parents[1] / "train.jsonl", "belongs.json": update.parent / name}
    file = own.get(name, update / name)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 64
    file.write_bytes(content)
    if name != "log":
        code, out, err = bench.run("verify", "tiny")
        assert code == 1 and name in out + err
    code, _, err = bench.run(*COMMAND)
    assert code == 0
    assert "not used" in err or "begins again" in err
    assert fingerprints(bench.results) == whole


def test_an_earlier_phase_is_damaged(bench: Bench) -> None:
    """It is trained again, without a second line in the log, and the later one goes on."""
    method = {"name": "grads", "share": 0.5}
    bench.write_config(**{**BARE, "methods": [method]})
    expected = undisturbed(bench)
    assert ended(signalled(7, signal.SIGTERM))[0] == 130  # 3 updates of the first phase
    (place,) = bench.results.glob("grads/seed-1/stage-1*/midway/phase-1")
    (place / "weights.safetensors").write_bytes(b"")
    code, _, err = bench.run(*COMMAND)
    assert code == 0 and "not used" in err
    assert fingerprints(bench.results) == expected


OWN = """
from cl_bench.methods.base import Method


class Own(Method):
    name = "own"

    def prepare(self, stage):
        self.numbers = iter(range(100))
        self.seen = []

    def before_step(self, step):
        self.seen.append(next(self.numbers))
        for grad in step.grads.values():
            grad.mul_(1 + self.seen[-1] / 10)
"""


def test_a_method_that_cannot_be_saved(bench: Bench) -> None:
    """It is told once, trains to the end, and is trained again from the start if interrupted."""
    (bench.root / "own.py").write_text(OWN)
    bench.write_config(**{**BARE, "methods": [{"file": "own.py"}], "save_every": "2 updates"})
    whole = undisturbed(bench)
    code, said = ended(signalled(5, signal.SIGTERM))
    assert code == 130 and said.count("Own.numbers is an iterator") == 1
    assert midway(bench) == []
    bench.must(*COMMAND)
    assert fingerprints(bench.results) == whole


def test_two_processes(bench: Bench) -> None:
    """The first one is told; both stop after the same update, and go on from it."""
    methods = [{"name": "fggm", "refresh": 3}, {"name": "lora", "dropout": 0.1, "label": "lora"}]
    bench.write_config(**{**BARE, "methods": methods})
    cpu = {"ACCELERATE_USE_CPU": "true"}

    def run(rank: int) -> int:
        return run_command(list(COMMAND))

    def stopped(rank: int) -> int:
        looks = [4]

        def told(stops: Stops, name: str) -> Any:
            if name == "asked" and rank == 0:
                looks[0] -= 1
                return looks[0] <= 0
            return object.__getattribute__(stops, name)

        Stops.__getattribute__ = told  # type: ignore[assignment,method-assign]
        return run_command(list(COMMAND))

    assert [one.code for one in launched(bench.root, run, environment=cpu)] == [0, 0]
    whole = fingerprints(bench.results)
    assert all("2" in file.read_text() for file in bench.results.rglob("timing.json"))
    shutil.rmtree(bench.results)
    sessions = 0
    while (codes := {one.code for one in launched(bench.root, stopped, environment=cpu)}) != {0}:
        sessions += 1
        assert codes == {130} and sessions < 30
        (saved,) = bench.results.rglob("update-*")
        held = [p.name for p in saved.glob("process-*.safetensors")]
        assert sorted(held) == ["process-0.safetensors", "process-1.safetensors"]
    assert sessions >= 4
    assert fingerprints(bench.results) == whole
