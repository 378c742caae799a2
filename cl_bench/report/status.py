"""What a run is at, from its files: `status.json`, and what lies in the folders of its runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cl_bench.live.screen import lines
from cl_bench.live.status import Status, status_of
from cl_bench.results.growing import RunState, run_states
from cl_bench.store.folders import there
from cl_bench.store.status_file import STATUS, Fate, fate, read_status, read_statuses

LISTED = 30
"""Runs that are listed at most."""


def status_lines(experiment: Path, width: int) -> tuple[str, list[str]]:
    """The state (`running`, `gone`, `finished`, ...), and what to print."""
    record, states = read_status(experiment), run_states(experiment)
    found = fate_of(experiment, record, states)
    said = [f"{experiment}: {found.said}", *_others(experiment)]
    shown = None if record is None else _shown(experiment, record, found)
    if shown is not None:
        said += ["", *lines(shown, width)]
    return found.state, [*said, "", *_runs(states)] if states else said


def status_json(experiment: Path) -> dict[str, Any]:
    """The same as values."""
    record, states = read_status(experiment), run_states(experiment)
    found = fate_of(experiment, record, states)
    kept = record or {}
    keys = ("host", "pid", "began", "written")
    shown = None if record is None else _shown(experiment, record, found)
    return {
        "experiment": str(experiment),
        "state": found.state,
        "said": found.said,
        **{key: kept.get(key) for key in keys},
        "status": None if shown is None else shown.as_json(),
        "runs": [
            {
                "run": f"{one.folder.parent.name}/{one.folder.name}",
                "stages": one.stages,
                "done": one.done,
                "state": one.state,
            }
            for one in states
        ],
    }


def fate_of(experiment: Path, record: Mapping[str, Any] | None, states: list[RunState]) -> Fate:
    """What has become of it; without `status.json` as far as the other files tell."""
    if record is not None:
        return fate(record)
    lacking = f"no {STATUS} that can be read, so whether a process is at work is not known"
    if not there(experiment / "base" / "scores.json"):
        return Fate("unknown", f"the base model is not scored; {lacking}")
    if any(one.state.startswith("diverged") for one in states):
        return Fate("diverged", f"a run diverged; {lacking}")
    if states and all(one.state == "finished" for one in states):
        return Fate("finished", "every run that was begun is finished")
    return Fate("unknown", f"not finished; {lacking}")


def _others(experiment: Path) -> Iterator[str]:
    """Of several processes that share it: what the others are at."""
    for record in read_statuses(experiment)[1:]:
        other = fate(record)
        doing = str(record["status"].get("what") or "")
        at = f": {doing}" if doing and other.state == "running" else ""
        yield f"also {other.said}{at}"


def _shown(experiment: Path, record: Mapping[str, Any], found: Fate) -> Status | None:
    """What was written last, with the time since then taken off; of a run that ended its rows."""
    try:
        status = status_of(record["status"])
    except (TypeError, KeyError, AttributeError):
        return None
    if found.state == "running":
        passed = max(time.time() - record["written"], 0.0)
        left = {
            key: max(seconds - passed, 0.0)
            for key in ("stage_left", "all_left")
            if (seconds := getattr(status, key)) is not None
        }
        return replace(status, **left)
    if found.state != "finished":
        return replace(status, doing=f"last seen {status.doing}", stage_left=None, all_left=None)
    return None


def _runs(states: list[RunState]) -> Iterator[str]:
    """A line for each run."""
    for one in states[:LISTED]:
        name = f"{one.folder.parent.name}/{one.folder.name}"
        yield f"{name}: {one.done} of {one.stages} stages done; {one.state}"
    if len(states) > LISTED:
        yield f"and {len(states) - LISTED} more"
