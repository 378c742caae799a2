"""The runs of an experiment and their trackers: which is open, and what each was told already.

`tracking/sessions.json` keeps for every tracker and run the id to go on with and the scores that it
was told. A tracker that fails is warned about once and left alone until the next
start.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cl_bench.config.schema import ExperimentConfig
from cl_bench.errors import RunError
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import RunFolder, read_json, stage_number, there, write_json
from cl_bench.store.seals import read_scores
from cl_bench.trackers.base import TrackedRun, Tracker
from cl_bench.trackers.known import TRACKERS

TRACKING = "tracking"
SESSIONS = "sessions.json"
VALUES = ("loss", "lr", "grad_norm", "tokens", "epoch")
"""Of the record of an update."""


@dataclass
class _Open:
    """A tracker with a run that is open."""

    tracker: Tracker
    key: str
    """In `sessions.json`: `mlflow fggm/seed-42`."""


@dataclass
class Tracking:
    """All trackers of one start of a run; none where the config names none."""

    experiment: Path
    config: ExperimentConfig
    warn: Callable[[str], None]
    _open: list[_Open] = field(default_factory=list)
    _run: Path | None = None
    _failed: set[str] = field(default_factory=set)
    """Names of trackers that are left alone."""

    def open(self, label: str, seed: int, run: RunFolder) -> None:
        """Begin a run, or go on with it, unless it is open; the one before it is finished."""
        if self._run == run.path or not self.config.track:
            return
        self.close("finished")
        self._run = run.path
        config = read_run(run.path / "run.json")["config"]
        slug = _slug(run)
        for name in self.config.track:
            if name in self._failed:
                continue
            key = f"{name} {slug}"
            tracker = TRACKERS[name]()
            known = self._sessions().get(key, {})
            folder = self.experiment / TRACKING / name
            about = TrackedRun(
                *(self.config.name, f"{label}, seed {seed}", folder, slug, config, known.get("id"))
            )
            opened = _Open(tracker, key)
            identity = self._tried(opened, partial(tracker.begin, about))
            if name not in self._failed:
                self._open.append(opened)
                self._remember(key, {"told": {}, **known, "id": identity})

    def step(self, stage: str, record: Mapping[str, Any]) -> None:
        """One update of the open run: `record` is its line of train.jsonl."""
        values = {name: float(record[name]) for name in VALUES if name in record}
        for one in list(self._open):
            self._tried(one, partial(one.tracker.step, stage, record["step"], values))

    def catch_up(self, label: str, seed: int, run: RunFolder) -> None:
        """Tell the scores of all finished stages that a tracker was not told of yet."""
        names = [name for name in self.config.track if name not in self._failed]
        if not names:
            return
        finished = {0: self.experiment / "base"}
        finished |= {stage_number(s.path.name): s.path for s in run.stages() if s.scored}
        values = {number: scores_of(place) for number, place in finished.items()}
        keys = [f"{name} {_slug(run)}" for name in names]
        if not any(self._untold(key, values) for key in keys):
            return
        self.open(label, seed, run)
        for one in list(self._open):
            for number, lacking in self._untold(one.key, values).items():
                self._tried(one, partial(one.tracker.scores, number, lacking))
                if one not in self._open:
                    break
                session = self._sessions()[one.key]
                told = {**session["told"], str(number): sorted(values[number])}
                self._remember(one.key, {**session, "told": told})

    def _untold(
        self, key: str, values: Mapping[int, Mapping[str, float]]
    ) -> dict[int, dict[str, float]]:
        """By stage, what a tracker was not told: later stages may add columns to earlier rows."""
        told = self._sessions().get(key, {}).get("told", {})
        found = {
            number: {name: v for name, v in row.items() if name not in told.get(str(number), [])}
            for number, row in sorted(values.items())
        }
        return {number: row for number, row in found.items() if row}

    def close(self, state: str) -> None:
        """End the open run."""
        for one in list(self._open):
            self._tried(one, partial(one.tracker.end, state))
        self._open, self._run = [], None

    def _tried(self, one: _Open, call: Callable[[], Any]) -> Any:
        """Whatever a tracker raises is a warning: it must not end a training.

        What it prints goes to standard error, since standard output is for the report.
        """
        try:
            with redirect_stdout(sys.stderr):
                return call()
        except Exception as error:
            name = one.key.split()[0]
            self._failed.add(name)
            self._open = [other for other in self._open if other is not one]
            said = str(error).splitlines()
            text = f"{type(error).__name__}: {said[0] if said else ''}"
            self.warn(f"warning: track: {name}: {text}; the run goes on without it")

    def _sessions(self) -> dict[str, Any]:
        file = self.experiment / TRACKING / SESSIONS
        try:
            found = read_json(file) if there(file) else {}
        except RunError:
            return {}
        return {
            key: one
            for key, one in (found if isinstance(found, dict) else {}).items()
            if isinstance(one, dict) and isinstance(one.get("told"), dict)
        }

    def _remember(self, key: str, session: Mapping[str, Any]) -> None:
        file = self.experiment / TRACKING / SESSIONS
        write_json(file, {**self._sessions(), key: dict(session)})


def _slug(run: RunFolder) -> str:
    return f"{run.path.parent.name}/{run.path.name}"


def scores_of(place: Path) -> dict[str, float]:
    """Percentages of a finished place: stage tasks, benchmarks, `General` and `OP`."""
    scores = read_scores(place)
    entries = {**scores["trace"], **scores["general"]}
    found = {name: entry["score"] for name, entry in entries.items() if name != "mean" and entry}
    found |= {"General": scores["general"].get("mean"), "OP": scores.get("op")}
    return {
        name: 100 * float(score)
        for name, score in found.items()
        if isinstance(score, int | float) and math.isfinite(score)
    }
