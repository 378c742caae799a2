"""What a person sees while a run goes on: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

PLAIN_SECONDS = 20.0
"""Without a terminal, a line at most this often."""


class _Console(Console):
    """One whose closed or full output does not end a run: it goes on without being watched."""

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:
            self.quiet = True
            del self._buffer[:]

    def on_broken_pipe(self) -> None:
        """rich would end the process."""
        self.quiet = True
        del self._buffer[:]


class Reporter:
    """Progress of one command. Quiet on other processes than the first."""

    def __init__(self, console: Console | None = None, enabled: bool = True) -> None:
        self.console = console or _Console(stderr=True)
        self.enabled = enabled
        self._bars: Progress | None = None
        self._stages: TaskID | None = None
        self._steps: TaskID | None = None
        self._tokens = 0
        self._task = ""
        self._said: set[str] = set()
        self._count = self._documents = self._before = self._here = 0
        self._began = self._scoring = self._printed = time.monotonic()

    def __enter__(self) -> Reporter:
        if self.enabled and self.console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def line(self, text: str) -> None:
        """A line that stays."""
        if self.enabled:
            target = self._bars.console if self._bars is not None else self.console
            target.print(text, highlight=False, markup=False, soft_wrap=True)

    def once(self, text: str) -> None:
        """A line that stays, unless it was printed before."""
        if text not in self._said:
            self._said.add(text)
            self.line(text)

    def stages(self, total: int, done: int) -> None:
        """How many stages of the experiment are complete."""
        if self._bars is not None:
            if self._stages is None:
                self._stages = self._bars.add_task("stages", total=total, detail="")
            self._bars.update(self._stages, total=total, completed=done)

    def begin(self, label: str) -> None:
        """A stage's training begins."""
        self._tokens, self._began = 0, time.monotonic()
        self._printed = self._began
        if self._bars is not None:
            if self._steps is not None:
                self._bars.remove_task(self._steps)
            self._steps = self._bars.add_task(label, total=None, detail="")
        else:
            self.line(f"{label}: training")

    def step(self, record: dict[str, Any], total: int) -> None:
        """One update is done."""
        self._tokens += record["tokens"]
        now = time.monotonic()
        rate = self._tokens / max(now - self._began, 1e-9)
        detail = f"loss {record['loss']:.3f}  {rate:,.0f} tokens/s"
        done = record["step"]
        if self._bars is not None and self._steps is not None:
            self._bars.update(self._steps, total=total, completed=done, detail=detail)
        elif now - self._printed >= PLAIN_SECONDS or done == total:
            left = (now - self._began) / done * (total - done)
            self.line(f"  update {done}/{total}  {detail}  {clock(left)} left")
            self._printed = now

    def scoring(self, label: str) -> None:
        """A model is being scored."""
        if self._bars is not None:
            if self._steps is not None:
                self._bars.remove_task(self._steps)
            self._steps = self._bars.add_task(f"{label}: scoring", total=None, detail="")
        else:
            self.line(f"{label}: scoring")
        self.tasks(0, 0)

    def tasks(self, count: int, documents: int) -> None:
        """`documents` are still to be answered, in the tasks of `count` that are not done yet."""
        self._scoring = self._printed = time.monotonic()
        self._count, self._documents = count, documents
        self._before = self._here = 0

    def task(self, name: str, number: int, documents: int) -> None:
        """Task `number` of all begins; it has so many documents."""
        self._task = f"task {number}/{self._count} {name}"
        self._before += self._here
        self._here = documents
        self.scored("documents", 0, documents)

    def scored(self, what: str, done: int, total: int) -> None:
        """So many requests of one kind are answered, of all of the current task."""
        now = time.monotonic()
        answered = self._before + self._here * done / max(total, 1)
        if self._bars is not None and self._steps is not None:
            self._bars.update(
                self._steps, total=self._documents, completed=int(answered), detail=self._task
            )
        elif now - self._printed >= PLAIN_SECONDS:
            seconds = (now - self._scoring) / max(answered, 1) * (self._documents - answered)
            left = f"  about {clock(seconds)} left" if answered else ""
            self.line(f"  {self._task}  {what} {done}/{total}{left}")
            self._printed = now


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
