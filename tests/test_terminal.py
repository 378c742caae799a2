"""Consoles of any encoding, closed pipes and full disks, with the real command."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cl_bench.experiment.peak_memory import peak_memory_mb
from cl_bench.progress import Reporter, _Console
from cl_bench.terminal import in_ascii, print_anything

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
    assert buffer.getvalue() == b"results/\\udcff\n" and in_ascii("naïve…") == "naive..."


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


SLOW = ("torch", "transformers", "datasets", "lm_eval", "numpy", "cl_bench.config.schema")


def test_the_first_line_comes_before_slow_imports(tmp_path: Path) -> None:
    """A quarter of a second on an idle machine; of a busy one nothing can be asked."""
    (tmp_path / "results" / "mine").mkdir(parents=True)
    (tmp_path / "results" / "mine" / "experiment.json").write_text(
        '{"last_run": "2026", "config": {}}'
    )
    for words, begins in (
        (["run", "c.yaml"], "c.yaml: reading"),
        (["plan", "c.yaml"], "c.yaml: reading"),
        (["eval", "--stage", "1"], "scoring results/mine, the experiment that was run last"),
    ):
        imported, line = _until_it_speaks(words, tmp_path)
        assert line.startswith(begins)
        assert "typer" in imported and not imported & {*SLOW}


def _until_it_speaks(words: list[str], folder: Path) -> tuple[set[str], str]:
    """The modules imported before the first line on standard error, and that line."""
    imported: set[str] = set()
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "cl_bench", *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if not line.startswith("import time:"):
                process.kill()
                return imported, line
            imported.add(line.rpartition("|")[2].strip())
    raise AssertionError("it said nothing")


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
