"""What a person sees while a run goes on: a live screen in a terminal, plain lines elsewhere.

Everything that a run tells comes here and becomes a `Status`: the screen shows it, `status.json`
holds it, and trackers hear of the updates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cl_bench.live.forecast import Forecast
from cl_bench.live.screen import clock, lines
from cl_bench.live.status import Row, Status

PLAIN_SECONDS = 20.0
"""Without a terminal, a line of progress at most this often."""
FORECAST_SECONDS = 0.5
"""Time left and memory are looked up at most this often."""
REFRESHES = 4
"""Of the screen, a second."""


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
        self.status = Status()
        self.forecast = Forecast()
        self.memory: Callable[[], int | None] = lambda: None
        """In use now, in MB."""
        self.heard: list[Callable[[Mapping[str, Any]], None]] = []
        """Called with the record of every update."""
        self._live: Live | None = None
        self._said: set[str] = set()
        self._part, self._row = "", ""
        self._tokens = self._before = self._here = self._first = 0
        self._count = 0
        self._began = self._scoring = self._printed = self._looked = time.monotonic()
        self._unit_began = self._began

    def __enter__(self) -> Reporter:
        if self.enabled and self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(
                console=self.console,
                transient=True,
                refresh_per_second=REFRESHES,
                get_renderable=self._screen,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _screen(self) -> Text:
        """Called by rich's thread."""
        shown = lines(self.status, max(self.console.width, 10))
        text = Text(no_wrap=True, overflow="crop")
        for number, line in enumerate(shown):
            text.append(f"{line}\n" if number + 1 < len(shown) else line, "" if number else "bold")
        return text

    def _set(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)

    def line(self, text: str) -> None:
        """A line that stays."""
        if self.enabled:
            target = self._live.console if self._live is not None else self.console
            target.print(text, highlight=False, markup=False, soft_wrap=True)

    def once(self, text: str) -> None:
        """A line that stays, unless it was printed before."""
        if text not in self._said:
            self._said.add(text)
            self.line(text)

    def event(self, text: str) -> None:
        """A line with the time, where there is no screen that shows the same."""
        if self._live is None:
            self.line(f"{time.strftime('%H:%M:%S')} {text}")

    # --- What is done as a whole

    def opened(
        self, experiment: str, tasks: Sequence[str] = (), benchmarks: Sequence[str] = ()
    ) -> None:
        """The experiment and the columns of its matrix are known."""
        self._set(experiment=experiment, tasks=tuple(tasks), benchmarks=tuple(benchmarks))

    def planned(self, experiment: str, runs: Sequence[str], tasks: Sequence[str]) -> None:
        """Which runs and stage tasks there will be, before anything is loaded."""
        self.opened(experiment, tasks)
        what = f"{', '.join(dict.fromkeys(runs)) or 'the base model'} over {', '.join(tasks)}"
        self._set(doing="reading tasks, data and model", what=what)
        self.event(f"{experiment}: {what}")
        if self._live is not None:
            self._live.refresh()  # before the imports that keep rich's thread waiting

    def part(self, key: str, row: str, rows: Sequence[Row] = (), **about: Any) -> None:
        """A part of the forecast begins, with what is scored of its run so far.

        `row` names the row that its scores go to; `about`: fields of the status.
        """
        self._part, self._row = key, row
        cleared = {"epoch": 0, "epochs": 0, "update": 0, "updates": 0, "loss": None}
        self._set(rows=tuple(rows), **{**cleared, "tokens_per_second": None, **about})

    def stages(self, total: int, done: int) -> None:
        """How many stages of the experiment are complete."""
        self._set(stages=total, stages_done=done)

    # --- Training

    def begin(self, label: str) -> None:
        """A stage's training begins."""
        self._tokens, self._began, self._first = 0, time.monotonic(), -1
        self._printed = self._began
        self._set(doing="training", what=label, task="", documents=0, of_documents=0)
        self._look(0.0, 0.0, at_once=True)
        self.event(f"{label}: training")

    def step(self, record: dict[str, Any], total: int) -> None:
        """One update is done."""
        for hear in self.heard:
            hear(record)
        self._tokens += record["tokens"]
        now, done = time.monotonic(), record["step"]
        if self._first < 0:
            self._first = done - 1
        rate = self._tokens / max(now - self._began, 1e-9)
        own = self.forecast.part(self._part)
        share = (done - self._first) / max(total, 1)
        if own is not None and own.work:
            self.forecast.rates.training[own.method] = (now - self._began) / (own.work * share)
        changes = {"update": done, "updates": total, "epoch": record["epoch"]}
        self._set(**changes, loss=record["loss"], tokens_per_second=rate, task="", of_documents=0)
        self._look(done / max(total, 1), 0.0)
        if now - self._printed >= PLAIN_SECONDS or done == total:
            left = (now - self._began) / (done - self._first) * (total - done)
            detail = f"loss {record['loss']:.3f}  {rate:,.0f} tokens/s"
            self.event(f"  update {done}/{total}  {detail}  {clock(left)} left")
            self._printed = now

    def _look(self, trained: float, answered: float, at_once: bool = False) -> None:
        """Time left and memory."""
        now = time.monotonic()
        if not at_once and now - self._looked < FORECAST_SECONDS:
            return
        self._looked = now
        own, whole = self.forecast.left(self._part, trained, answered)
        known = bool(self.forecast.parts) and (whole.whole or whole.seconds > 0)
        self._set(
            memory_mb=self.memory(),
            stage_left=own.seconds if known else None,
            all_left=whole.seconds if known else None,
            at_least=not whole.whole,
        )

    # --- Scoring

    def scoring(self, label: str) -> None:
        """A model is being scored."""
        self._set(doing="scoring", what=label)
        self.event(f"{label}: scoring")
        self.tasks(0, 0)

    def tasks(self, count: int, documents: int) -> None:
        """`documents` are still to be answered, in the tasks of `count` that are not done yet."""
        self._scoring = self._printed = time.monotonic()
        self._count = count
        self._before = self._here = 0
        self._set(task="", documents=0, of_documents=documents)
        self._look(1.0, 0.0, at_once=True)

    def task(self, name: str, number: int, documents: int) -> None:
        """Task `number` of all begins; it has so many documents."""
        self._set(task=f"task {number}/{self._count} {name}")
        self._unit_began = time.monotonic()
        self._before += self._here
        self._here = documents
        self.scored("documents", 0, documents)

    def scored(self, what: str, done: int, total: int) -> None:
        """So many requests of one kind are answered, of all of the current task."""
        now = time.monotonic()
        answered = self._before + self._here * done / max(total, 1)
        self._set(documents=int(answered))
        if self.status.doing == "scoring":
            self._look(1.0, answered / max(self.status.of_documents, 1))
        if now - self._printed >= PLAIN_SECONDS:
            rest = self.status.of_documents - answered
            seconds = (now - self._scoring) / max(answered, 1) * rest
            left = f"  about {clock(seconds)} left" if answered else ""
            self.event(f"  {self.status.task}  {what} {done}/{total}{left}")
            self._printed = now

    def answered(self, name: str, entry: Mapping[str, Any], now: bool = True) -> None:
        """A stage task or benchmark is scored; `now`: not read from what an earlier start left."""
        if now and self._here:
            seconds = time.monotonic() - self._unit_began
            self.forecast.rates.scoring[name] = seconds / self._here
        score = entry.get("score")
        if score is not None and self._row:
            self._set(rows=_with(self.status.rows, self._row, name, 100 * score))
        if now:
            said = "not measured" if score is None else f"{100 * score:.1f}"
            error = entry.get("stderr")
            self.event(f"  {name} {said}" + ("" if not error else f" +- {100 * error:.1f}"))


def _with(rows: Sequence[Row], row: str, column: str, score: float) -> tuple[Row, ...]:
    """The rows with a cell more, at the end of which a new one stands."""
    own = next((one for one in rows if one.name == row), Row(row))
    others = [one for one in rows if one.name != row]
    return (*others, Row(row, {**own.scores, column: score}))
