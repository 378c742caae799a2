"""`status.json`: written by a thread, whole at every moment, and what it says of a process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cl_bench.store import status_file
from cl_bench.store.status_file import STATUS, about_process, fate, kept_up, read_status


def written(**changes: Any) -> dict[str, Any]:
    base = {"state": "running", "said": "", "written": time.time(), "status": {}}
    return {**about_process(), **base, **changes}


def test_it_is_kept_up_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_file, "SECONDS", 0.01)
    count = [0]
    end = time.monotonic() + 30
    with kept_up(tmp_path, lambda: {"state": "running", "status": {"n": count[0]}}, print):
        seen = set()
        while len(seen) < 20:
            count[0] += 1
            found = read_status(tmp_path)
            assert found is not None, "never half a file"
            seen.add(found["status"]["n"])
            assert time.monotonic() < end
        count[0] = -1
    last = read_status(tmp_path)
    assert last is not None and last["status"]["n"] == -1 and last["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [STATUS]


def test_it_is_written_at_most_once_a_second(tmp_path: Path) -> None:
    calls = [0]

    def content() -> dict[str, Any]:
        calls[0] += 1
        return {"state": "running", "status": {"n": calls[0]}}

    with kept_up(tmp_path, content, print):
        time.sleep(0.3)
        assert calls[0] == 1


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    with kept_up(tmp_path / "gone", lambda: {"state": "running", "status": {}}, said.append):
        pass
    assert len(said) == 1 and "status.json: not written" in said[0]


def test_this_process_runs_and_one_that_ended_is_gone() -> None:
    assert fate(written()).state == "running"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = fate(written(pid=ended.pid))
    assert gone.state == "gone" and "run the same command again" in gone.said
    assert fate(written(process_began=1.0)).state == "gone", "its number belongs to another one"


def test_on_another_host_silence_tells() -> None:
    other = {"host": socket.gethostname() + "-2", "pid": 1}
    assert fate(written(**other)).state == "running"
    silent = fate(written(**other, written=time.time() - 100))
    assert silent.state == "gone" and "probably" in silent.said


@pytest.mark.parametrize("state", ["finished", "interrupted", "diverged", "failed"])
def test_how_it_ended_is_said(state: str) -> None:
    found = fate(written(state=state, said="why", pid=0))
    assert (found.state, found.said) == (state, f"{state}: why")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"state": 1}', "[" * 100_000])
def test_what_is_no_status_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / STATUS).write_text(text)
    assert read_status(tmp_path) is None
    (tmp_path / STATUS).write_text(json.dumps(written(host=3)))
    assert read_status(tmp_path) is None
