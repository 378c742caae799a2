"""A run that is killed again and again, anywhere, ends with the bytes of one that was not.

Each session is a process that ends itself with SIGKILL before its n-th change of a file, or after
its n-th look at whether it should stop (updates and batches of passes), or by a signal from
outside. Every session begins where the last one was killed, so that all of a run is gone through.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cl_bench.cli import run_command
from cl_bench.experiment.midway.stops import Stops
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.forked import watched

METHODS: dict[str, dict[str, Any]] = {
    "fggm": {"name": "fggm", "alpha": 0.5, "refresh": 2},
    "composed": {"compose": ["ewc", {"name": "replay", "ratio": 0.5}], "label": "composed"},
    "phases": {"name": "replay", "mode": "posthoc", "selection": "nll", "label": "phases"},
    "lora": {"name": "lora", "dropout": 0.1},
}
SETTINGS: dict[str, Any] = {
    "stages": [{"task": "FOMC", "limit": 8}, {"task": "trace_numglue_ds", "epochs": 2}],
    "eval": {
        "trace": {"limit": 2},
        "general": {"tasks": ["piqa"], "limit": 2},
        "within_stage": {"every": 2, "tasks": ["FOMC"]},
    },
    "save_every": "1 updates",
}
COMMAND = ["run", "tiny.yaml"]
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


def kill_at_change(number: int) -> None:
    """Of this process: SIGKILL before its n-th change of a file in the results folder."""
    left = [number]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or "results" not in str(arguments[0]):
            return
        if event == "open":
            mode, flags = arguments[1], arguments[2]
            if not (flags & (os.O_WRONLY | os.O_RDWR)) and not set(mode or "") & set("wax+"):
                return
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def kill_at_look(number: int) -> None:
    """Of this process: SIGKILL when it looks for the n-th time whether it should stop."""
    left = [number]

    def looked(stops: Stops, name: str) -> Any:
        if name == "asked":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return object.__getattribute__(stops, name)

    Stops.__getattribute__ = looked  # type: ignore[assignment,method-assign]


def session(prepare: Callable[[], None]) -> int:
    """One start of the run; its exit code, -9 where it was killed."""

    def work() -> int:
        prepare()
        return run_command(COMMAND)

    process, said = watched(work)
    lines = list(said)
    said.close()
    code = process.wait()
    assert "Traceback" not in "".join(lines), "".join(lines)
    assert code in (0, -signal.SIGKILL), "".join(lines)
    return code


def killed_until_done(seed: int, changes: int, looks: int) -> int:
    """How many sessions were killed, each at most so far from its start, before one ended."""
    draw = random.Random(seed)
    for count in range(1000):
        kind, most = draw.choice([(kill_at_change, changes), (kill_at_look, looks)])
        if session(partial(kind, draw.randint(1, most))) == 0:
            return count
    raise AssertionError("it does not get on")


def whole(bench: Bench, methods: list[str], **changes: str) -> dict[str, str]:
    """What the run leaves that is not killed; its folder is gone."""
    bench.write_config(**SETTINGS, methods=[METHODS[name] for name in methods], **changes)
    assert session(lambda: None) == 0
    found = fingerprints(bench.results)
    shutil.rmtree(bench.root / "results")
    return found


def leaves_nothing(results: Path) -> bool:
    """No file of a session that was killed is left."""
    odd = [p for p in results.rglob("*") if p.name in ("midway", "partial") or ".tmp" in p.name]
    return not odd


@pytest.mark.parametrize("method", ["fggm", "composed", "phases"])
def test_killed_again_and_again(bench: Bench, method: str) -> None:
    expected = whole(bench, [method])
    assert killed_until_done(seed=1, changes=26, looks=4) >= 20
    assert fingerprints(bench.results) == expected and leaves_nothing(bench.results)


@pytest.mark.slow
def test_killed_where_little_stays_on_disk(bench: Bench) -> None:
    expected = whole(bench, ["fggm"], keep="last", checkpoints="delta")
    assert killed_until_done(seed=8, changes=30, looks=4) >= 20
    assert fingerprints(bench.results) == expected and leaves_nothing(bench.results)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_killed_hundreds_of_times(bench: Bench, seed: int) -> None:
    expected = whole(bench, list(METHODS))
    assert killed_until_done(seed, changes=48, looks=5) >= 30
    assert fingerprints(bench.results) == expected and leaves_nothing(bench.results)
