"""When something is saved: often enough to lose little, seldom enough to cost little."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from functools import lru_cache

LONG = 1.0
"""Seconds of work that is worth saving when it ends (a pass, a phase), if the save is cheap."""
SHARE = 60
"""Times its own duration that passes between two saves at least, so that saving takes under 2 %
of the time with a first one that takes longer."""
SHARE_AFTER_A_KILL = 10
"""The same where a session was killed: the next kill may be as soon, so 9 % of the time."""
TRIED = 1 << 22
"""Bytes whose checksum tells how fast a save will be, until one has shown it."""
OF_CHECKSUM = 1.5
"""Times as long as the checksum alone, which is two thirds of a save in a file system's cache."""
OF_FIRST = 3
"""Times as long as the next, for the first save of a session, which finds nothing to write over."""


@lru_cache(maxsize=1)
def seconds_a_byte() -> float:
    """Of writing something with its checksum on this machine, as far as its processor decides."""
    content, fastest = bytes(TRIED), float("inf")
    for _ in range(3):  # one of which nothing else delays
        began = time.perf_counter()
        hashlib.sha256(content).digest()
        fastest = min(fastest, time.perf_counter() - began)
    return OF_CHECKSUM * fastest / TRIED


@dataclass(frozen=True)
class Every:
    """After so many seconds, after so many updates; neither: never."""

    seconds: float | None = None
    updates: int | None = None


@dataclass
class Pace:
    """That of one stage in one session."""

    every: Every
    killed: bool = False
    """Whether a session before was, without being asked to stop."""
    _last: float = field(default_factory=time.monotonic)
    spent: float = 0.0
    """Seconds that all saves so far took."""
    _took: float = 0.0
    _size: int = -1
    _first: bool = True

    @property
    def on(self) -> bool:
        """Whether anything is saved."""
        return self.every != Every()

    @property
    def long(self) -> float:
        """Seconds of work that is worth a save when it ends."""
        return max(LONG, self._apart)

    @property
    def _apart(self) -> float:
        """Seconds between two saves at least."""
        return self._took * (SHARE_AFTER_A_KILL if self.killed else SHARE)

    def due(self, updates: int | None = None) -> bool:
        """Whether it is time; `updates`: done so far, between two of them."""
        every = self.every
        if updates is not None and every.updates is not None and updates % every.updates == 0:
            return True
        if every.seconds is None:
            return False
        return time.monotonic() - self._last > max(every.seconds, self._apart)

    def expect(self, size: int) -> None:
        """So many bytes are to be saved from now on: a short stage must not pay for a long save.

        What a save of as many has taken already counts more than what is expected.
        """
        if size != self._size:
            self._size, self._took, self._first = size, size * seconds_a_byte(), True

    def saved(self, seconds: float) -> None:
        """Something was, and took so long."""
        self._last, self.spent = time.monotonic(), self.spent + seconds
        self._took = max(self._took, seconds / OF_FIRST) if self._first else seconds
        self._first = False

    def stop(self) -> None:
        """Nothing is saved any more."""
        self.every = Every()
