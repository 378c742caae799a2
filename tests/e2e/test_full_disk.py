"""Disks that fill up in the middle: what is complete is kept, and the next start ends the same."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cl_bench.cli import run_command
from cl_bench.experiment.midway import saves
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.interrupting import COMMAND, at_update, ended, undisturbed
from tests.helpers.launching import launched

CPU = {"ACCELERATE_USE_CPU": "true"}
BARE: dict[str, Any] = {
    "eval": {"trace": {"limit": 1}, "general": {"after": "never"}, "probes": False},
    "methods": [{"name": "lora", "dropout": 0.1}],
    "stages": [{"task": "FOMC", "limit": 12, "epochs": 2}],
    "save_every": "1 update",
}
STAGE = "lora/seed-1/stage-1-trace_fomc"


def full(path: Path) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def full_from(update: int, name: str = "engine.safetensors") -> None:
    """In this process, saves of that update and later ones cannot be written."""
    real, over = saves.save_tensors, saves.write_over

    def fails(path: Path) -> bool:
        number = int(path.parent.name.strip(".").removesuffix(".tmp").rpartition("-")[2])
        return path.name == name and number >= update

    def save(path: Path, tensors: Any) -> None:
        if fails(path):
            path.write_bytes(b"a part")
            raise full(path)
        real(path, tensors)

    def save_over(old: Path, path: Path, tensors: Any) -> None:
        if fails(path):
            old.replace(path)
            raise full(path)
        over(old, path, tensors)

    saves.save_tensors = save  # type: ignore[assignment]
    saves.write_over = save_over  # type: ignore[assignment]


@pytest.fixture
def whole(bench: Bench) -> dict[str, str]:
    bench.write_config(**BARE)
    return undisturbed(bench)


def test_a_save_that_cannot_be_written_ends_nothing(bench: Bench, whole: dict[str, str]) -> None:
    """It is said once; the save before it is kept, and an interrupted stage goes on from there."""

    def stopped() -> None:
        full_from(3)
        at_update(5, lambda: os.kill(os.getpid(), signal.SIGKILL))

    code, said = ended(stopped)
    reason = f"warning: cannot save: results/tiny/{STAGE}/midway/.update-3.tmp/engine.safetensors: "
    assert code == -signal.SIGKILL and said.count("cannot save") == 1 and reason in said, said
    assert "No space left on device; training goes on, the last save is update-2" in said
    names = [path.name for path in (bench.results / STAGE / "midway").iterdir()]
    assert sorted(names) == ["belongs.json", "update-2"], "nothing half-written takes room"

    def told() -> None:
        full_from(3)
        at_update(5, lambda: os.kill(os.getpid(), signal.SIGTERM))

    code, said = ended(told)
    assert code == 130 and said.count("cannot save") == 2, "said again when it is told to stop"
    code, said = ended(lambda: full_from(4))
    assert code == 0 and said.count("cannot save") == 1, said
    assert json.loads((bench.results / STAGE / "timing.json").read_text())["save_seconds"] > 0
    assert fingerprints(bench.results) == whole


@pytest.mark.parametrize("rank", [0, 1])
def test_in_one_of_two_processes(bench: Bench, rank: int) -> None:
    bench.write_config(**BARE)

    def work(own: int) -> int:
        if own == rank:
            full_from(3, f"process-{own}.safetensors")
        return run_command(list(COMMAND))

    ended = launched(bench.root, work, environment=CPU)
    assert [one.code for one in ended] == [0, 0], ended
    assert ended[0].err.count("cannot save") == 1 and "cannot save" not in ended[1].err


def fails_at_change(number: int, code: int) -> None:
    """Of this process: no file of the results can be opened for writing from the n-th time on."""
    left = [number]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or "results" not in str(arguments[0]) or ".lock" in str(arguments[0]):
            return
        mode, flags = arguments[1], arguments[2]
        if not (flags & (os.O_WRONLY | os.O_RDWR)) and not set(mode or "") & set("wax+"):
            return
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(code, os.strerror(code), str(arguments[0]))

    sys.addaudithook(hook)


def test_every_write_may_fail(bench: Bench, whole: dict[str, str]) -> None:
    """Each session gets a little further, ends with a message, and loses nothing."""
    kinds = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES)
    codes: list[int] = []
    while not codes or codes[-1]:
        number = 3 + 7 * len(codes)
        kind = kinds[len(codes) % len(kinds)]
        code, said = ended(lambda number=number, kind=kind: fails_at_change(number, kind))
        codes.append(code)
        assert code in (0, 1) and "--debug" not in said and "Traceback" not in said, said
        if code:
            assert os.strerror(kind) in said, said
            assert "cl-bench: failed: " in said and "run the same command again to go on" in said
        assert len(codes) < 40
    assert len(codes) > 3 and fingerprints(bench.results) == whole


@pytest.fixture
def small_disk(bench: Bench) -> Iterator[Callable[[str], None]]:
    """A real tmpfs where results go, of the size that it is given, again and again."""
    place = bench.root / "results"
    place.mkdir()

    def mounted(option: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(place)]
        return subprocess.run(command, capture_output=True).returncode == 0

    if shutil.which("mount") is None or not mounted("size=64k"):
        pytest.skip("tmpfs cannot be mounted here")

    def resize(size: str) -> None:
        assert mounted(f"remount,size={size}")

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_real_disk_that_is_full(
    bench: Bench, small_disk: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fills up at ever later points; whatever is complete then is not made again."""
    bench.write_config(**{**BARE, "methods": ["sft", {"name": "ewc", "lambda": 10}]})
    small_disk("64m")
    bench.must(*COMMAND)
    whole = fingerprints(bench.results)
    shutil.rmtree(bench.results)
    small_disk("64k")
    code, _, err = bench.run(*COMMAND)
    assert code == 2 and "free some, or use --results on another disk" in err, err
    # The check before the start would not let the others begin.
    monkeypatch.setattr("cl_bench.experiment.run.missing_bytes", lambda *_: 0)
    codes = []
    for kilobytes in (80, 160, 320, 480, 700, 1000, 1400, 2000, 64000):
        small_disk(f"{kilobytes}k")
        code, _, err = bench.run(*COMMAND)
        codes.append(code)
        assert code in (0, 1) and "--debug" not in err and "Traceback" not in err, err
        if code:
            assert "No space left on device" in err and "to go on" in err, err
    assert codes.count(1) >= 4 and codes[-1] == 0, codes
    assert fingerprints(bench.results) == whole
