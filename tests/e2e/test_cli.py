"""Start time, help, exit codes, and the commands that need no model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cl_bench.checks import machine
from tests.e2e.conftest import Bench

REPOSITORY = Path(__file__).resolve().parents[2]


def cl_bench(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cl_bench", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd or REPOSITORY,
    )


NO_TORCH = [["--help"], ["report", "--help"], ["score", "--help"], ["methods"]]


@pytest.mark.parametrize("command", NO_TORCH)
def test_help_imports_no_torch(command: list[str]) -> None:
    code = (
        "import sys; from cl_bench.cli import run_command;"
        f"run_command({command!r}); assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_has_help(bench: Bench) -> None:
    out = bench.must("--help")
    for command in (
        "run",
        "eval",
        "report",
        "plan",
        "inspect",
        "score",
        "tasks",
        "methods",
        "data",
        "doctor",
    ):
        assert command in out


def test_usage_errors_are_short_and_exit_with_2(bench: Bench) -> None:
    code, _, err = bench.run("run")
    assert code == 2 and "Traceback" not in err
    done = cl_bench("run", "nowhere.yaml")
    assert done.returncode == 2 and "nowhere.yaml: no such config" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in cl_bench("--debug", "run", "nowhere.yaml").stderr


def test_shipped_configs_are_found_from_an_empty_folder(tmp_path: Path) -> None:
    done = cl_bench("plan", "configs/trace.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stage 8: trace_20minuten, 7 epochs, all examples" in done.stdout
    assert "lr = 0.0001  (methods: lora)" in done.stdout
    assert "lr = 1e-05  (train)" in done.stdout


def test_listings(bench: Bench) -> None:
    code, out, _ = bench.run("tasks", "--data-root", "data")
    assert code == 0
    assert "trace_fomc  (FOMC, accuracy)  data there" in out
    assert "trace_cstance" in out and "no data in" in out
    assert "| fggm " in bench.must("methods")
    assert "lambda: number > 0, default 400.0" in bench.must("methods", "ewc")
    code, _, err = bench.run("methods", "fgm")
    assert code == 2 and "unknown method 'fgm' (did you mean 'fggm'?)" in err


def test_doctor_ends_with_1_where_a_run_would_fail(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "ok    torch" in bench.must("doctor", "--model", "./model")
    monkeypatch.setattr(machine, "_space", lambda: iter([machine.Finding("fault", "no room")]))
    code, out, err = bench.run("doctor")
    assert code == 1 and "fault no room" in out and "1 fault, marked above" in err
