"""When the middle of a stage is saved, and that a stage that was killed is saved more often."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cl_bench.experiment.midway import opened as opened_module
from cl_bench.experiment.midway import pace as module
from cl_bench.experiment.midway.pace import Every, Pace
from cl_bench.experiment.midway.places import Places
from cl_bench.experiment.midway.stops import Stops
from tests.experiment.midway.sessions import ALONE

BELONGS = {"settings": "these"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("killed", "apart"), [(False, 120.0), (True, 20.0)])
def test_a_save_costs_a_share_of_the_time(clock: list[float], killed: bool, apart: float) -> None:
    pace = Pace(Every(seconds=10), killed, clock[0])
    assert not pace.due()
    clock[0] += 10.5
    assert pace.due()
    pace.saved(6.0)  # which had to find its place
    assert pace.long == apart
    pace.saved(2.0)
    assert pace.long == apart and pace.spent == 8
    for seconds, due in ((apart - 1, False), (2.0, True)):
        clock[0] += seconds
        assert pace.due() == due


def test_work_of_a_second_is_saved_where_that_costs_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "seconds_a_byte", lambda: 1e-9)
    for killed in (False, True):
        pace = Pace(Every(seconds=10), killed)
        pace.expect(1_000_000)
        assert pace.long == 1
        pace.expect(1_000_000_000)
        assert pace.long == (10 if killed else 60)


def test_the_first_save_has_to_be_worth_its_time_too(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "seconds_a_byte", lambda: 2.5e-9)
    pace = Pace(Every(seconds=10), False, clock[0])
    pace.expect(1_600_000_000)  # 4 s
    for seconds, due in ((230.0, False), (20.0, True)):
        clock[0] += seconds
        assert pace.due() == due
    pace.saved(0.1)
    pace.saved(0.1)
    pace.expect(1_600_000_000)
    clock[0] += 11.0
    assert pace.due(), "what a save took counts, once one was made"
    pace.expect(1_700_000_000)
    assert not pace.due(), "which says nothing of what is larger"


def test_later_stages_are_saved_more_often_too_after_a_kill(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = iter([True, False])
    monkeypatch.setattr(opened_module, "_belongs", lambda *given: BELONGS)

    def is_opened(self: Places, belongs: object) -> int:
        self.killed = next(found)
        return 0

    monkeypatch.setattr(Places, "open", is_opened)
    config = SimpleNamespace(save_every="10 s")
    work: Any = SimpleNamespace(
        config=config, processes=ALONE, first_process=True, stops=Stops(), device=None
    )
    work.reporter = SimpleNamespace(line=pytest.fail)
    nothing: Any = None
    for stage in ("stage-1", "stage-2"):
        saves, _, _ = opened_module.open_saves(work, nothing, nothing, 0, tmp_path / stage)
        assert saves.pace.killed


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
