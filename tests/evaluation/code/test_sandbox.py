"""Programs of a model: what counts as passed, what is stopped, what is left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cl_bench.errors import UserError
from cl_bench.evaluation.code import humaneval as code
from cl_bench.evaluation.code.humaneval import pass_at_1, sandbox_warnings
from cl_bench.evaluation.code.sandbox import (
    JAIL,
    WANTED,
    SandboxLimits,
    missing_protections,
    run_program,
)

pytestmark = pytest.mark.skipif(
    sys.platform == "win32",
    reason="Windows cannot limit a process, so cl-bench refuses to run programs there",
)
LIMITS = SandboxLimits(seconds=1)
MISSING = list(WANTED) if sys.platform == "win32" else missing_protections()


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
        ("import os\nfor _ in range(99): os.open('/dev/null', 0)", "OSError"),
        ("import os\nif os.fork():\n    import time; time.sleep(0.2); os._exit(0)", "exited"),
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


@pytest.mark.skipif("network" in MISSING, reason="the kernel allows no namespaces")
def test_the_network_is_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)"
        exec(program, {})  # it can be reached from here
        assert run_program(program, LIMITS).reason == "OSError"


@pytest.mark.skipif("processes" in MISSING, reason="the kernel allows no namespaces")
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
    before = set(psutil.Process().children())
    assert run_program(escape, LIMITS).passed
    assert run_program(f"{escape}time.sleep(60)", LIMITS).reason == "timeout"
    deadline = time.monotonic() + 5  # the kernel ends a namespace's processes one after the other
    while "31.4159" in _running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "31.4159" not in _running() and set(psutil.Process().children()) <= before


def _running() -> str:
    return subprocess.run(["ps", "axo", "args"], capture_output=True, text=True).stdout


@pytest.mark.skipif("processes" in MISSING, reason="the kernel allows no namespaces")
def test_processes_that_multiply_end_with_the_program() -> None:
    """64 of them; who is not root is stopped at `Limits.processes` before."""
    multiply = (
        "import os\nfor _ in range(6): os.fork()\nos.execv('/bin/sleep', ['sleep', '60.2525'])\n"
    )
    assert run_program(multiply, LIMITS).reason in ("timeout", "BlockingIOError")
    listed = subprocess.run(["ps", "axo", "args"], capture_output=True, text=True).stdout
    assert "60.2525" not in listed


@pytest.mark.skipif(
    getattr(os, "geteuid", int)() == 0, reason="the kernel lets root have any number of processes"
)
def test_the_number_of_processes_is_limited() -> None:
    program = "import os, time\nfor _ in range(30):\n    if not os.fork(): time.sleep(60)\n"
    assert run_program(program, LIMITS).reason == "BlockingIOError"


@pytest.mark.skipif("network" in MISSING, reason="the kernel allows no namespaces")
def test_the_environment_of_other_processes_is_out_of_reach() -> None:
    ready = "print(flush=True); input()"
    secret = {"HF_TOKEN": "hf_of_another_process"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", ready], env=secret, **pipes) as other:
        other.stdout.readline()
        program = f"assert b'hf_of_another' in open('/proc/{other.pid}/environ', 'rb').read()"
        exec(program, {})  # it can be read from here
        assert run_program(program, LIMITS).reason == "PermissionError"
        other.communicate(b"\n")


def test_a_refused_limit_of_memory_is_said_and_the_others_hold() -> None:
    """As on macOS; in a process of its own, since limits cannot be taken back."""
    program = (
        f"import resource, runpy\njail = runpy.run_path({str(JAIL)!r})\n"
        "set_limit = resource.setrlimit\n"
        "def refuse(kind, values):\n"
        "    if kind == resource.RLIMIT_AS: raise ValueError('current limit exceeds maximum')\n"
        "    set_limit(kind, values)\n"
        "resource.setrlimit = refuse\n"
        f"print(jail['limit']({asdict(LIMITS)!r}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == f"[] {LIMITS.files}\n", done.stderr


def test_what_the_machine_lacks_is_a_warning_for_such_tasks_only(monkeypatch) -> None:
    tasks = {"writes_code": SimpleNamespace(UNSAFE_CODE=True)}
    monkeypatch.setattr(code, "missing_protections", lambda: list(WANTED))
    network, processes, memory = sandbox_warnings(tasks)
    assert "network" in network and "process" in processes and "memory" in memory
    assert sandbox_warnings({"piqa": SimpleNamespace()}) == []


def test_a_platform_without_limits_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UserError, match="--allow-code-execution: code cannot be limited"):
        sandbox_warnings({"writes_code": SimpleNamespace(UNSAFE_CODE=True)})


def test_humaneval_runs_prompt_answer_and_checks() -> None:
    doc = {
        "prompt": "def double(x):\n",
        "entry_point": "double",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    }
    right = {"score": 1.0, "timeout": 0.0, "reason": "passed"}
    assert pass_at_1(doc, ["    return 2 * x"]) == right
    wrong = {"score": 0.0, "timeout": 0.0, "reason": "AssertionError"}
    assert pass_at_1(doc, ["    return x"]) == wrong


def test_real_solutions_pass(shared_dir: Path) -> None:
    """Every eighth problem; all 164 passed when this was written."""
    file = shared_dir / "data" / "code" / "humaneval" / "test.jsonl"
    docs = [json.loads(line) for line in file.read_text().splitlines()][::8]
    assert all(pass_at_1(doc, [doc["canonical_solution"]])["score"] == 1.0 for doc in docs)
