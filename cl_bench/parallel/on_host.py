"""What a host of the cluster does: compare itself with the driver, and start a process.

Ray sends this file's text to the hosts: it needs the standard library alone, since another version
of cl-bench, or none, may be there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = (
    *("cl-bench", "torch", "transformers", "tokenizers", "datasets", "accelerate", "peft"),
    *("lm-eval", "safetensors"),
)
"""Whose versions decide numbers."""
POLL_SECONDS = 0.1
SEEN_SECONDS = 60.0
"""How long a file of the driver may take to be seen: NFS looks at a folder again after so long."""


def facts() -> dict[str, str]:
    """What must be the same on all hosts, by what it is called in a message."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    found["code of cl-bench"] = _code()
    return found


def _code() -> str:
    """Checksum of all its modules; a version may have several states."""
    spec = find_spec("cl_bench")
    if spec is None or spec.origin is None:
        return "none"
    folder, digest = Path(spec.origin).parent, hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def faults(request: Mapping[str, Any], patience: float = SEEN_SECONDS) -> list[str]:
    """Why this host cannot take part, a line each.

    `request`: the driver's `facts`; `folder`, where it starts; `token`, a file of the experiment's
    folder that it holds a lock on.
    """
    ours = facts()
    found = [
        f"{name} is {ours.get(name, 'none')}, the driver has {there}: install the same"
        for name, there in request["facts"].items()
        if ours.get(name, "none") != there
    ]
    if not Path(request["folder"]).is_dir():
        found.append(
            f"there is no folder {request['folder']}, where cl-bench was started: hosts need the "
            "config and what it names under the same paths"
        )
    token = Path(request["token"])
    if not _seen(token, patience):
        found.append(
            f"{token.parent} is not the driver's folder, a file that the driver wrote there is not "
            "seen: give a shared folder with --results"
        )
    elif not os.access(token.parent, os.W_OK):
        found.append(f"{token.parent}: no permission to write there")
    elif not _locked(token):
        found.append(
            f"{token.parent}: a lock that the driver holds there is not seen: runs could be made "
            "twice; mount it with locks (docs/clusters.md)"
        )
    return found


def _seen(file: Path, patience: float) -> bool:
    end = time.monotonic() + patience
    while not file.exists():
        if time.monotonic() > end:
            return False
        with contextlib.suppress(OSError):
            next(file.parent.iterdir(), None)  # asks a network file system again
        time.sleep(POLL_SECONDS)
    return True


def _locked(file: Path) -> bool:
    """Whether another process holds the lock."""
    import fcntl

    with file.open("a") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # of a file system without locks
            return False
    return False


def work(request: Mapping[str, Any]) -> dict[str, Any]:
    """Start the process that `request` is for, `child.py`, and wait for it.

    Returns `host`, the exit `code` (negative: the signal that killed it), and what it `said` of a
    failure, a line each. When it is told to stop (KeyboardInterrupt), so is the process, which
    saves what it is at.
    """
    host = socket.gethostname()
    if found := faults(request):
        return {"host": host, "code": 2, "said": found}
    with tempfile.TemporaryDirectory(prefix="cl-bench-") as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(request))
        given = [str(asked), str(answer), str(os.getpid())]
        code = _ended([sys.executable, "-m", "cl_bench", "work", *given], request)
        said = json.loads(answer.read_text()) if answer.exists() else {"code": code, "said": []}
    return {"host": host, **said}


def _ended(command: list[str], request: Mapping[str, Any]) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": str(request["threads"])}
    if not request["gpus"]:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    child = subprocess.Popen(
        command,
        cwd=request["folder"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=2,  # Ray shows it to the driver; standard output is for the report
        stderr=2,
    )
    with _killed_at_the_end(child):
        try:
            # Not `wait`: Ray's way to interrupt a task does not end a call of the system.
            while child.poll() is None:
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
    return int(child.returncode)


@contextlib.contextmanager
def _killed_at_the_end(child: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
