"""What the driver asks of hosts: a JSON value, which `on_host.py` and `child.py` read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cl_bench.parallel.asked import Command, Share

LOOK, BASE = "look", "base"
"""In place of a run: only compare the hosts; score the base model."""


@dataclass(frozen=True)
class Asking:
    """What all requests of one start have in common."""

    command: Command
    expected: dict[str, Any]
    """What `agreement.described` says here."""
    facts: dict[str, str]
    """Of this host."""
    token: Path
    """A file on which this process holds a lock."""
    share: Share

    def to(self, run: str) -> dict[str, Any]:
        """The request to make a run (`agreement.key_of`), or `LOOK`, or `BASE`."""
        processes = 1 if run == LOOK else self.share.processes
        return {
            **asdict(self.command),
            "results": str(self.command.results),
            "expected": self.expected,
            "facts": self.facts,
            "folder": str(Path.cwd()),
            "token": str(self.token.absolute()),
            "run": run,
            "processes": processes,
            "threads": max(self.share.cpus // processes, 1),
            "gpus": 0.0 if run == LOOK else self.share.gpus,
        }
