"""The screen of a run in a real terminal, its lines in a pipe, and `cl-bench status`."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cl_bench.cli import run_command
from cl_bench.progress import Reporter
from cl_bench.store.status_file import STATUS
from tests.e2e.conftest import Bench
from tests.e2e.test_interrupted_training import signalled
from tests.helpers.forked import Forked
from tests.helpers.interrupting import ended

SMALL = {
    "methods": ["sft"],
    "eval": {"trace": {"limit": 2}, "general": {"tasks": ["piqa"], "limit": 2}, "probes": False},
}
COMMAND = ["run", "tiny.yaml"]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_terminal(work: Callable[[], int], columns: int) -> tuple[int, str]:
    """The exit code, and all that was written to a pseudo-terminal, without escape sequences."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    process = Forked(work, theirs)
    os.close(theirs)
    found = []
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError as error:  # Linux says so when the other side is closed
            assert error.errno == errno.EIO
            break
        if not block:
            break
        found.append(block)
    os.close(ours)
    return process.wait(), ESCAPES.sub("", b"".join(found).decode())


def slowly() -> int:
    """The run, with every update drawn."""
    os.environ.update(TERM="xterm")
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        os.environ.pop(name, None)
    step = Reporter.step

    def drawn(self: Reporter, record: object, total: int) -> None:
        step(self, record, total)  # type: ignore[arg-type]
        assert self._live is not None
        self._live.refresh()

    Reporter.step = drawn  # type: ignore[method-assign]
    return run_command(COMMAND)


@pytest.mark.parametrize("columns", [100, 40])
def test_a_terminal_shows_what_the_run_is_at(bench: Bench, columns: int) -> None:
    bench.write_config(**SMALL)
    code, text = in_terminal(slowly, columns)
    assert code == 0, text
    shown = " ".join(text.split())
    first = shown.index("tiny: sft over trace_fomc")
    assert first < shown.index("tiny: sft, seed 1, stage 1/2"), "before anything is loaded"
    for part in ("epoch 2/2", "update 6/6", "tokens/s", "memory", "for all", "1 of 2 stages done"):
        assert part in shown
    assert re.search(r"loss \d+\.\d{3}", shown)
    screen = text.split("reading config")[1].split("# tiny")[0]
    # A tab or a longer line would make the screen jump.
    assert max(len(line) for line in re.split(r"[\r\n]+", screen) if "tiny.yaml" not in line) <= 100
    grown = [re.sub(r"\s+", " ", line) for line in re.split(r"[\r\n]+", text)]
    assert any(re.match(r"1 fomc \d+\.\d \. ", line) for line in grown), "the second cell is open"
    assert any(re.match(r"base \d+\.\d \d+\.\d \d+\.\d", line) for line in grown)


def test_a_pipe_gets_a_line_for_each_event_with_time_and_score(bench: Bench) -> None:
    bench.write_config(**SMALL)
    code, _, err = bench.run(*COMMAND)
    assert code == 0
    events = [line[9:] for line in err.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    base, first = events.index("base model: scoring"), "sft, seed 1, stage 1/2 trace_fomc: training"
    names = [line.split()[0] for line in events[base + 1 : events.index(first)]]
    assert names == ["trace_fomc", "trace_numglue_ds", "piqa"]
    assert all(re.match(r"  \w+ \d+\.\d", line) for line in events[base + 1 : events.index(first)])
    assert any(re.match(r"sft, seed 1, 2 numglue_ds: done, General [\d.]+, OP ", e) for e in events)
    assert "\x1b" not in err


def status(bench: Bench) -> dict[str, object]:
    """What `status --json` says."""
    found = json.loads(bench.must("status", "tiny", "--json"))
    assert isinstance(found, dict)
    return found


def test_status_of_a_run_that_goes_on_then_is_killed_then_finishes(bench: Bench) -> None:
    bench.write_config(**SMALL)
    reading, writing = os.pipe()
    go = threading.Event()

    def work() -> int:
        step = Reporter.step

        def told(self: Reporter, record: object, total: int) -> None:
            step(self, record, total)  # type: ignore[arg-type]
            if self.status.what.startswith("sft, seed 1, stage 2") and self.status.update == 3:
                while json.loads((bench.results / STATUS).read_text())["status"]["update"] != 3:
                    go.wait(0.05)
                os.write(writing, b"x")
                go.wait(60)

        Reporter.step = told  # type: ignore[method-assign]
        return run_command(COMMAND)

    process, lines = watched_with(work, writing)
    os.close(writing)
    assert os.read(reading, 1) == b"x", "".join(lines)
    found = status(bench)
    assert found["state"] == "running" and found["pid"] == process.pid
    now = found["status"]
    assert isinstance(now, dict) and (now["update"], now["updates"], now["epoch"]) == (3, 6, 1)
    assert now["loss"] > 0 and now["tokens_per_second"] > 0 and now["memory_mb"] > 10
    assert now["all_left"] > 0 and not now["at_least"]
    assert [row["name"] for row in now["rows"]] == ["base", "1 fomc"]
    said = bench.must("status", "tiny")
    assert "running on" in said and "update 3/6" in said and "1 fomc" in said
    assert "sft/seed-1: 1 of 2 stages done; stage 2 in training, update 3, loss" in said

    process.send_signal(signal.SIGKILL)
    process.wait()
    lines.close()
    said = bench.must("status", "tiny")
    assert "is gone" in said and "run the same command again" in said and "last seen" in said
    assert bench.run("verify", "tiny")[0] == 0, "a status is no file of the run"

    bench.must(*COMMAND)
    found = status(bench)
    assert found["state"] == "finished" and found["runs"] == [
        {"run": "sft/seed-1", "stages": 2, "done": 2, "state": "finished"}
    ]
    (bench.results / STATUS).unlink()
    assert "every run that was begun is finished" in bench.must("status", "tiny")
    notes = json.loads(bench.must("verify", "tiny", "--json"))["notes"]
    assert not [note for note in notes if STATUS in note]


def watched_with(work: Callable[[], int], kept: int) -> tuple[Forked, object]:
    """As `watched`, and a descriptor that stays open in the child."""
    reading, writing = os.pipe()
    child = Forked(work, writing, keep=[kept])
    os.close(writing)
    return child, os.fdopen(reading)


def test_status_of_an_interrupted_run(bench: Bench) -> None:
    bench.write_config(**SMALL)
    code, said = ended(signalled(1, signal.SIGTERM))
    assert code == 130, said
    assert "interrupted: run the same command again" in bench.must("status", "tiny")
    assert status(bench)["state"] == "interrupted"


def test_status_of_a_run_that_diverged(bench: Bench) -> None:
    bench.write_config(**SMALL | {"methods": [{"name": "sft", "label": "wild", "lr": 1e30}]})
    assert bench.run(*COMMAND)[0] == 1
    said = bench.must("status", "tiny")
    assert "diverged" in said and "wild/seed-1: 0 of 2 stages done; diverged in stage 1" in said
    (bench.results / STATUS).write_text("{")
    assert status(bench)["state"] == "diverged"


def test_status_without_experiment_and_with_two_outputs(bench: Bench) -> None:
    assert bench.run("status", "nothing")[0] == 2
    bench.trained()
    code, _, err = bench.run("status", "tiny", "--json", "--watch")
    assert code == 2 and "give one of them" in err
    assert "finished" in bench.must("status", "--watch")


def test_status_imports_no_torch(bench: Bench) -> None:
    bench.trained()
    code = (
        "import sys; from cl_bench.cli import run_command; "
        "assert run_command(['status', 'tiny']) == 0; "
        "assert not {'torch', 'transformers', 'numpy', 'lm_eval'} & {*sys.modules}"
    )
    home = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": home})
