"""The matrix of a run as far as it is there: finished rows, and the scored tasks of one that grows.

Reads `scores.json` and `partial/` while another process writes them: what is not whole is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError
from cl_bench.live.status import Row
from cl_bench.store.experiments import RUN, read_run, run_folders
from cl_bench.store.folders import RunFolder, StageFolder, stage_number


def growing_rows(experiment: Path, run: RunFolder | None = None) -> list[Row]:
    """The base model's row, and those of a run's stages."""
    found = [Row("base", scores_so_far(experiment / "base"))]
    for stage in run.stages() if run is not None else ():
        if scores := scores_so_far(stage.path):
            found.append(Row(row_name(stage.path), scores))
    return [row for row in found if row.scores]


def row_name(stage: Path) -> str:
    """`2 FOMC` for `stage-2-trace_fomc`."""
    number, _, task = stage.name.removeprefix("stage-").partition("-")
    return f"{number} {task.removeprefix('trace_').removeprefix('mini_')}"


def scores_so_far(place: Path) -> dict[str, float]:
    """Percentages by stage task and benchmark."""
    whole = _json(place / "scores.json")
    if whole is not None:
        entries = {**_dict(whole.get("trace")), **_dict(whole.get("general"))}
        return dict(_scores(entries))
    entries = {}
    for file in sorted((place / "partial").glob("*.json")):
        if part := _json(file):
            entries[file.stem.partition("-")[2]] = part.get("entry")
    return dict(_scores(entries))


def _scores(entries: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, entry in entries.items():
        score = _dict(entry).get("score")
        if name != "mean" and isinstance(score, int | float):
            yield name, 100 * float(score)


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _json(file: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, Mapping) else None


@dataclass(frozen=True)
class RunState:
    """How far one run is, from its files alone."""

    folder: Path
    done: int
    """Stages that are scored."""
    stages: int
    state: str
    """`finished`, `diverged`, `not begun`, or what its next stage is at."""


def run_states(experiment: Path) -> list[RunState]:
    """In the order in which they are run. Raises RunError for a damaged `run.json`."""
    found = []
    for folder in run_folders(experiment):
        record = read_run(folder / RUN)
        total = len(record["config"].get("stages", []))
        found.append((record.get("order", 0), folder.name, _state(RunFolder(folder), total)))
    return [state for _, _, state in sorted(found, key=lambda one: one[:2])]


def _state(run: RunFolder, total: int) -> RunState:
    done = 0
    for stage in run.stages():
        if stage.scores_file.is_file():
            done += 1
        elif stage.failure_file.is_file():
            what = f"diverged in stage {stage_number(stage.path.name)}"
            return RunState(run.path, done, total, what)
        else:
            return RunState(run.path, done, total, _at(stage))
    state = "finished" if done >= total else f"stage {done + 1} is not begun"
    return RunState(run.path, done, total, state if run.stages() else "not begun")


def _at(stage: StageFolder) -> str:
    number = stage_number(stage.path.name)
    try:
        if stage.trained:
            scored = len(list((stage.path / "partial").glob("*.json")))
            return f"stage {number} is trained, {scored} of its tasks scored"
    except RunError as error:
        return str(error)
    last = _last_line(stage.path / "train.jsonl")
    if last is None:
        return f"stage {number}: no update yet"
    loss = last.get("loss")
    said = f", loss {loss:.3f}" if isinstance(loss, int | float) else ""
    return f"stage {number} in training, update {last.get('step')}{said}"


def _last_line(file: Path) -> Mapping[str, Any] | None:
    """The last whole line of a log, read from its end."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - 4096))
            lines = opened.read().decode("utf-8", "replace").split("\n")[:-1]
        found = json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None
    return found if isinstance(found, Mapping) else None
