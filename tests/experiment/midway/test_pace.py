"""When the middle of a stage is saved, and that a stage that was killed is saved more often."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from cl_bench.experiment.midway import pace as module
from cl_bench.experiment.midway.pace import Every, Pace
from cl_bench.experiment.midway.places import Places
from tests.experiment.midway.sessions import ALONE

BELONGS = {"settings": "these"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("killed", "apart"), [(False, 100.0), (True, 20.0)])
def test_a_save_costs_a_share_of_the_time(clock: list[float], killed: bool, apart: float) -> None:
    pace = Pace(Every(seconds=10), killed, clock[0])
    assert not pace.due()
    clock[0] += 10.5
    assert pace.due()
    pace.saved(2.0)
    assert pace.long == apart
    for seconds, due in ((apart - 1, False), (2.0, True)):
        clock[0] += seconds
        assert pace.due() == due


def test_short_work_is_saved_after_a_kill_only() -> None:
    assert Pace(Every(seconds=10)).long == 5 and Pace(Every(seconds=10), killed=True).long == 1


def test_the_first_save_has_to_be_worth_its_time_too(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "seconds_a_byte", lambda: 2.5e-9)
    pace = Pace(Every(seconds=10), False, clock[0])
    pace.expect(1_600_000_000)  # 4 s
    for seconds, due in ((190.0, False), (20.0, True)):
        clock[0] += seconds
        assert pace.due() == due
    pace.saved(0.1)
    pace.expect(1_600_000_000)
    clock[0] += 11.0
    assert pace.due(), "what a save took counts, once one was made"


def test_updates_and_never(clock: list[float]) -> None:
    pace = Pace(Every(updates=3))
    clock[0] += 1e6
    assert [pace.due(done) for done in range(1, 7)] == [False, False, True] * 2 and not pace.due()
    pace.stop()
    assert not pace.on and not pace.due(3)


def opened(stage: Path) -> Places:
    places = Places(stage, ALONE, pytest.fail)
    places.open(BELONGS)
    return places


def test_a_kill_is_told_from_a_stop(tmp_path: Path) -> None:
    stage = tmp_path / "stage-1"
    assert not opened(stage).killed, "never begun"
    killed = opened(stage)
    assert killed.killed, "before anything was saved"
    (stage / "train.jsonl").touch()
    killed.publish(killed.folder / "update-0", BELONGS, lambda folder: None, ABOUT)
    assert opened(stage).killed
    killed.stopped()
    assert not opened(stage).killed
    assert opened(stage).killed, "the note is of one session"


ABOUT = {"course": {"done": 0, "phase": 0}}


def test_how_fast_a_save_will_be_is_tried() -> None:
    began = time.perf_counter()
    hashlib.sha256(bytes(1 << 26)).digest()
    theirs = (time.perf_counter() - began) / (1 << 26)
    assert 0.1 * theirs < module.seconds_a_byte() < 20 * theirs
