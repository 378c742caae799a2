"""Consoles of any encoding, closed pipes and full disks, with the real command."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cl_bench.peak_memory import peak_memory_mb
from cl_bench.progress import Reporter, _Console
from cl_bench.terminal import plain, print_anything

PRINTS = """
from cl_bench import cli
cli.run_command = lambda arguments, debug=False: print(TEXT) or 0
cli.main()
"""
TEXT = "| Δ | 74.2 ± 3.5 | café | 中文 | Ω |"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ | environment
    )


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PYTHONIOENCODING": "ascii"}, r"| d | 74.2 +- 3.5 | cafe | \u4e2d\u6587 | \u03a9 |"),
        ({"PYTHONIOENCODING": "cp1252"}, r"| d | 74.2 ± 3.5 | café | \u4e2d\u6587 | \u03a9 |"),
        (
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""},
            r"| d | 74.2 +- 3.5 | cafe | \u4e2d\u6587 | \u03a9 |",
        ),
        ({"PYTHONIOENCODING": "utf-8"}, TEXT),
    ],
)
def test_every_console_prints_everything(environment: dict[str, str], expected: str) -> None:
    done = python(PRINTS.replace("TEXT", ascii(TEXT)), **environment)
    assert done.returncode == 0, done.stderr
    encoding = environment["PYTHONIOENCODING"] or "ascii"
    assert done.stdout.decode(encoding).strip() == expected


def test_names_of_files_that_are_no_text_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="utf-8"))
    print_anything()
    print("results/\udcff", flush=True)
    assert buffer.getvalue() == b"results/\\udcff\n" and plain("naïve…") == "naive..."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_as_standard_output_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cl_bench", "methods"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("cl-bench: failed: standard output") and "No space left" in line


def test_a_closed_pipe_is_silent() -> None:
    command = [sys.executable, "-m", "cl_bench", "methods"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_progress_that_cannot_be_shown_does_not_end_a_run() -> None:
    for error in (BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")):

        class Closed(io.StringIO):
            def write(self, text: str, error: OSError = error) -> int:
                raise error

        with Reporter(_Console(file=Closed())) as reporter:
            reporter.line("one")
            reporter.line("two")


def test_the_first_line_comes_at_once(tmp_path: Path) -> None:
    """Before the config is read, let alone torch imported; 0.3 s on an idle machine."""
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"name": "x"}))  # incomplete: ends soon
    took = []
    for _ in range(3):
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "cl_bench", "run", str(config)], stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            took.append(time.perf_counter() - began)
        assert line.decode().startswith(str(config))
    assert min(took) < 2.0


def test_the_bare_command_prints_its_help() -> None:
    for words in ([], ["data"]):
        done = subprocess.run(
            [sys.executable, "-m", "cl_bench", *words], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "") and "Usage" in done.stdout


def test_peak_memory_without_the_module_of_unix(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = peak_memory_mb()
    assert measured is not None and measured > 50
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert peak_memory_mb() is None  # psutil knows peaks on Windows alone
