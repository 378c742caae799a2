"""Being told to stop: the update or batch that is under way is finished and saved first.

SIGINT (Ctrl-C), SIGTERM (a scheduler) and SIGHUP (a closed terminal) ask once; a second one, or one
where nothing can be saved, ends at once. What is ignored already (`nohup`) stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

_STOPPING = b"\nstopping: saving what is under way; once more ends at once\n"
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""By name: Windows has no SIGHUP."""


class StoppedError(KeyboardInterrupt):
    """The run was told to stop and has saved what it was at."""


@dataclass
class Stops:
    """Whether the run was told to stop."""

    asked: bool = False
    speaks: bool = True
    """Whether this process is the one that says so."""
    killed: bool = False
    """Whether a session before this one was not asked, but killed, in a stage taken up since."""
    _waiting: int = field(default=0, repr=False)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While open, the signals come here. Only the main thread of a process can do that."""
        before: dict[int, object] = {}
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, self._hear)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)  # type: ignore[arg-type]

    @contextmanager
    def saved_for(self) -> Iterator[None]:
        """While open, whoever opened it looks at `asked` often, saves and raises StoppedError."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    @contextmanager
    def ended_at_once(self) -> Iterator[None]:
        """While open, a signal raises KeyboardInterrupt where the process is."""
        before, self._waiting = self._waiting, 0
        try:
            yield
        finally:
            self._waiting = before

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self._waiting:
            raise KeyboardInterrupt
        self.asked = True
        if self.speaks:
            with contextlib.suppress(OSError, ValueError):
                # Not print: this may come in the middle of one.
                os.write(sys.stderr.fileno(), _STOPPING)
