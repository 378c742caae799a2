"""`status.json`: what a run is at, for others to read. Derived: no number depends on it.

The first process writes it at most once a second, from a thread, so that a long forward pass does
not look like a process that has ended. It is not flushed to disk: after a crash of the machine what
it says is of no use.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATUS = "status.json"
SECONDS = 1.0
"""Between two writes at least."""
BEAT = 10.0
"""Between two writes at most, when nothing changes."""
SILENT = 60.0
"""A run on another host that has written nothing for so long is taken for gone."""

Content = Callable[[], Mapping[str, Any]]


@contextmanager
def kept_up(
    folder: Path, content: Content, warn: Callable[[str], None], name: str = STATUS
) -> Iterator[None]:
    """While open, the file of that name holds what `content()` gives; once more at the end.

    One of many (`own_name`) that ended well is removed: the runs say the rest.
    """
    writer = _Writer(folder / name, content, warn)
    writer.write()
    thread = threading.Thread(target=writer.go_on, name="status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        writer.ended.set()
        thread.join()
        writer.write()
        if name != STATUS and content()["state"] == "finished":
            with contextlib.suppress(OSError):
                writer.file.unlink()


class _Writer:
    def __init__(self, file: Path, content: Content, warn: Callable[[str], None]) -> None:
        self.file, self.content, self.warn = file, content, warn
        self.ended = threading.Event()
        self.about = about_process()
        self._last: tuple[float, Mapping[str, Any]] = (0.0, {})
        self._failed = False

    def go_on(self) -> None:
        """Until the end."""
        while not self.ended.wait(SECONDS):
            before, old = self._last
            if time.monotonic() - before >= BEAT or self.content() != old:
                self.write()

    def write(self) -> None:
        """Atomically. A file that cannot be written is said once; the run goes on."""
        content = self.content()
        self._last = (time.monotonic(), content)
        temporary = self.file.with_name(f".{self.file.name}.tmp")
        try:
            temporary.unlink(missing_ok=True)  # of a killed process, or a link
            with temporary.open("x", encoding="utf-8") as file:
                json.dump({**self.about, "written": time.time(), **content}, file, indent=1)
            temporary.replace(self.file)
        except OSError as error:
            if not self._failed:
                self.warn(f"{self.file}: not written ({error}); the run goes on without it")
            self._failed = True


def about_process() -> dict[str, Any]:
    """What tells this process from others, now and later."""
    import psutil

    began = psutil.Process().create_time()
    return {"host": socket.gethostname(), "pid": os.getpid(), "process_began": began}


def own_name() -> str:
    """The name of the file of one of several processes."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
    return f"status-{host}-{os.getpid()}.json"


def read_statuses(folder: Path) -> list[dict[str, Any]]:
    """Of all processes that wrote one: those at work first, each group with the latest first."""
    found = [_read(path) for path in folder.glob("status*.json")]
    good = [one for one in found if one is not None]
    return sorted(good, key=lambda one: (fate(one).state != "running", -one["written"]))


def drop_gone(folder: Path) -> None:
    """Remove what processes that share an experiment left, and that are gone."""
    for file in folder.glob("status-*.json"):
        found = _read(file)
        if found is None or fate(found).state == "gone":
            with contextlib.suppress(OSError):
                file.unlink()


def read_status(folder: Path) -> dict[str, Any] | None:
    """The first of `read_statuses`."""
    return next(iter(read_statuses(folder)), None)


def _read(file: Path) -> dict[str, Any] | None:
    """None where there is none, or what is there is none of ours."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    needed = {"host": str, "pid": int, "process_began": float, "written": float, "state": str}
    good = isinstance(found, dict) and all(
        isinstance(found.get(key), kind) for key, kind in needed.items()
    )
    return dict(found) if good and isinstance(found.get("status"), dict) else None


@dataclass(frozen=True)
class Fate:
    """What has become of a run: its state, and a sentence about it."""

    state: str
    """`running`, `gone`, or as it ended: `finished`, `interrupted`, `diverged`, `failed`."""
    said: str


def fate(record: Mapping[str, Any]) -> Fate:
    """Whether the process is there is known on its own host; elsewhere its silence tells."""
    host, pid = record["host"], record["pid"]
    silent = max(time.time() - record["written"], 0.0)
    if record["state"] != "running":
        said = str(record.get("said") or "")
        return Fate(record["state"], record["state"] + (f": {said}" if said else ""))
    if host == socket.gethostname():
        if _alive(pid, record["process_began"]):
            return Fate("running", f"running on {host}, process {pid}")
        gone = f"process {pid} on {host} is gone (killed, or the machine was restarted)"
        return Fate("gone", f"{gone}: run the same command again to go on")
    if silent > SILENT:
        gone = f"process {pid} on {host} has written nothing for {silent:,.0f} s"
        return Fate("gone", f"{gone} and is probably gone; look there")
    return Fate("running", f"running on {host}, process {pid}, written {silent:.0f} s ago")


def _alive(pid: int, began: float) -> bool:
    """Whether the process is there, and not another one with its number."""
    import psutil

    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - began) < 2.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
