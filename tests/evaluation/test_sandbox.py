"""Programs of a model: what counts as passed, what is stopped, what is left behind."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cl_bench.evaluation.code import pass_at_1
from cl_bench.evaluation.sandbox import Limits, missing_protections, run_program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no limits on Windows")
LIMITS = Limits(seconds=1)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("x = 1\nassert x == 1", "passed"),
        ("assert 1 == 2", "AssertionError"),
        ("def f(:", "SyntaxError"),
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("import os\nos._exit(0)", "exited"),
        ("while True: pass", "timeout"),
        ("while True: print('x' * 1000)", "timeout"),
        ("import time\ntime.sleep(60)", "timeout"),
        ("x = 'a' * 10**11", "memory"),
        ("open('big', 'wb').write(b'x' * 2**22)", "OSError"),
        ("import os\nfor fd in range(3, 99):\n    try: os.write(fd, b'y' * 9999)\n"
         "    except OSError: pass", "exited"),
    ],
)  # fmt: skip
def test_how_a_program_ends(program: str, reason: str) -> None:
    began = time.monotonic()
    verdict = run_program(program, LIMITS)
    assert (verdict.reason, verdict.passed) == (reason, reason == "passed")
    assert time.monotonic() - began < 8


def test_it_starts_in_an_empty_folder_without_our_environment(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    program = (
        "import os, sys\n"
        "assert 'HF_TOKEN' not in os.environ and 'PATH' not in os.environ\n"
        "assert os.listdir('.') == [] and sys.stdin.read() == ''\n"
        f"open({str(tmp_path / 'where')!r}, 'w').write(os.getcwd())\n"
        "open('left', 'w').write('x')\n"
    )
    assert run_program(program).passed
    assert not Path((tmp_path / "where").read_text()).exists()


@pytest.mark.skipif("network" in missing_protections(), reason="the kernel allows no namespaces")
def test_the_network_is_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)"
        exec(program, {})  # it can be reached from here
        assert run_program(program, LIMITS).reason == "OSError"


@pytest.mark.skipif("processes" in missing_protections(), reason="the kernel allows no namespaces")
def test_no_process_outlives_its_program() -> None:
    """Not even one that leaves its session, whether the program ends or is stopped."""
    escape = (
        "import os, time\n"
        "for _ in range(5):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        os.execv('/bin/sleep', ['sleep', '31.4159'])\n"
        "time.sleep(0.2)\n"
    )
    assert run_program(escape, LIMITS).passed
    assert run_program(f"{escape}time.sleep(60)", LIMITS).reason == "timeout"
    listed = subprocess.run(["ps", "axo", "args"], capture_output=True, text=True).stdout
    assert "31.4159" not in listed and "jail.py" not in listed


def test_humaneval_runs_prompt_answer_and_checks() -> None:
    doc = {
        "prompt": "def double(x):\n",
        "entry_point": "double",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    }
    assert pass_at_1(doc, ["    return 2 * x"]) == {"score": 1.0, "timeout": 0.0}
    assert pass_at_1(doc, ["    return x"]) == {"score": 0.0, "timeout": 0.0}


def test_real_solutions_pass(shared_dir: Path) -> None:
    """Every eighth problem; all 164 passed when this was written."""
    file = shared_dir / "data" / "code" / "humaneval" / "test.jsonl"
    docs = [json.loads(line) for line in file.read_text().splitlines()][::8]
    assert all(pass_at_1(doc, [doc["canonical_solution"]])["score"] == 1.0 for doc in docs)
