"""What the driver needs of an engine that runs tasks on hosts; `ray_cluster.py` is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cl_bench.parallel.asked import Host, Share


@dataclass(frozen=True)
class Outcome:
    """How a request ended."""

    host: str
    code: int | None
    """cl-bench's exit code; negative: the signal that killed its process; None: what waited for
    that process is gone, or the host."""
    said: Sequence[str] = ()
    """Of a failure, a line each."""

    @property
    def lost(self) -> bool:
        """Whether it was ended from outside: it may be begun again."""
        return self.code is None or self.code < 0 or self.code == 130

    @property
    def reason(self) -> str:
        """Why there is no result, in one line."""
        if self.said or self.code is None:
            return "; ".join(self.said)
        if self.code < 0:
            return f"its process was killed by signal {-self.code}, perhaps for want of memory"
        return f"its process ended with exit code {self.code}"


class Cluster(Protocol):
    """Hosts, and tasks on them. A task is whatever `start` returns."""

    @property
    def ours(self) -> bool:
        """Whether it is this machine alone, begun by this process: nothing can differ there."""

    def hosts(self) -> list[Host]:
        """Those that are up."""

    def start(self, name: str, request: Mapping[str, Any], where: Host | Share) -> Any:
        """`on_host.work(request)`: on this host beside all others, or wherever the share is free.

        `name` is what a person sees of it.
        """

    def ended(self, tasks: Sequence[Any], seconds: float) -> list[Any]:
        """Those that have ended, waiting at most so long for one."""

    def outcome(self, task: Any) -> Outcome:
        """Of one that has ended."""

    def stop(self, tasks: Sequence[Any]) -> None:
        """Have them save what they are at, and end."""
