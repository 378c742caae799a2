"""What a host of a cluster finds wrong with itself, and the process that it starts."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from cl_bench.parallel import child, on_host
from cl_bench.parallel.driver import token_in
from tests.helpers.forked import Forked


def request(there: Path, **changes: Any) -> dict[str, Any]:
    return {
        "facts": on_host.facts(),
        "folder": str(there),
        "token": str(there / "token"),
        "threads": 3,
        "gpus": 0.0,
        **changes,
    }


def test_a_host_that_is_alike_has_no_fault(tmp_path: Path) -> None:
    with token_in(tmp_path) as token:
        assert on_host.faults(request(tmp_path, token=str(token))) == []
    assert not list(tmp_path.iterdir())


def test_all_faults_of_a_host_are_told(tmp_path: Path) -> None:
    facts = {**on_host.facts(), "torch": "1.0", "code of cl-bench": "abc"}
    asked = request(tmp_path, facts=facts, folder="/nowhere", token=str(tmp_path / "away" / "t"))
    found = on_host.faults(asked, patience=0.0)
    words = ["torch is", "the driver has 1.0", "code of cl-bench", "/nowhere", "not the driver's"]
    assert len(found) == 4
    assert all(any(word in line for line in found) for word in words), found


def test_a_file_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    with FileLock(tmp_path / "late"):
        (tmp_path / "late").rename(tmp_path / "hidden")
        threading.Timer(0.3, (tmp_path / "hidden").rename, [tmp_path / "token"]).start()
        assert on_host.faults(request(tmp_path), patience=20.0) == []


def test_a_lock_that_is_not_seen_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    (fault,) = on_host.faults(request(tmp_path))
    assert "runs could be made twice" in fault


def test_tokens_of_drivers_that_were_killed_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".driver-old").touch()
    with token_in(tmp_path) as one, token_in(tmp_path) as other:
        assert sorted(tmp_path.iterdir()) == sorted([one, other])


PROGRAM = """#!/bin/sh
[ "$3" = "" ] && exit 9
echo "$OMP_NUM_THREADS,$CUDA_VISIBLE_DEVICES,$ACCELERATE_USE_CPU" > environment
{}
"""


def worked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, **changes: Any) -> Any:
    """What `work` returns with another program in place of Python."""
    program = tmp_path / "program"
    program.write_text(PROGRAM.format(lines))
    program.chmod(0o700)
    monkeypatch.setattr(on_host.sys, "executable", str(program))
    with token_in(tmp_path) as token:
        return on_host.work(request(tmp_path, token=str(token), **changes))


def test_what_a_process_says_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.dumps({"code": 2, "said": ["this", "that"]})
    found = worked(tmp_path, monkeypatch, f"echo '{answer}' > $5\nexit 2")
    assert (found["code"], found["said"]) == (2, ["this", "that"])
    assert (tmp_path / "environment").read_text() == "3,,true\n"


def test_a_share_with_gpus_leaves_them_to_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert worked(tmp_path, monkeypatch, "exit 0", gpus=2.0)["code"] == 0
    assert (tmp_path / "environment").read_text() == "3,2,5,\n"


def test_a_process_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worked(tmp_path, monkeypatch, "kill -9 $$")["code"] == -signal.SIGKILL


def test_told_to_stop_it_waits_for_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "trap 'sleep 0.3; echo saved > saved; exit 130' TERM\nwhile true; do sleep 0.05; done"
    threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
    assert worked(tmp_path, monkeypatch, lines)["code"] == 130
    assert (tmp_path / "saved").exists()


def test_a_process_ends_when_nobody_waits_for_it() -> None:
    def work() -> int:
        child.end_with(parent=1 if os.getppid() != 1 else 2)
        return 0

    process = Forked(work, sys.stderr.fileno())
    began = time.monotonic()
    assert process.wait() == -signal.SIGTERM
    assert time.monotonic() - began < 10
