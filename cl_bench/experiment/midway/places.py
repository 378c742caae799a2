"""Where things are saved in the middle of a stage, so that a kill leaves all of one or nothing.

<stage>/midway/belongs.json        to what all of it belongs: settings, data, start, versions
<stage>/midway/pass-<n>/           the sums of the n-th pass over data (Fisher), and how far it is
<stage>/midway/phase-<n>/          the weights and the method at the end of the n-th phase
<stage>/midway/update-<n>/         the same after update n, with the optimiser; one at a time
<stage>/midway/.spare              the largest file of the save before, to write the next one over
<stage>/midway/stopped             there if the last session was asked to stop, and not killed

Each folder has a manifest of checksums and appears by renaming. All are removed when the stage is
trained.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError
from cl_bench.experiment.processes import Processes
from cl_bench.store.file_errors import what_failed
from cl_bench.store.folders import (
    publish_folder,
    read_json,
    read_records,
    there,
    verify_folder,
    write_json,
    write_records,
)
from cl_bench.store.seals import SEAL, read_sealed, write_sealed

MIDWAY = "midway"
BELONGS = "belongs.json"
ABOUT = "about.json"
STOPPED = "stopped"
SPARE = ".spare"
AGAIN = "the stage begins again"


def drop_midway(stage: Path) -> None:
    """Remove what was saved on the way, when the stage is trained, or again after a kill then."""
    shutil.rmtree(stage / MIDWAY, ignore_errors=True)


@dataclass
class Places:
    """The folder `midway` of a stage that is trained in `stage`."""

    stage: Path
    processes: Processes
    warn: Callable[[str], None]
    unsaved: bool = False
    """Whether the last save could not be written."""
    killed: bool = False
    """Whether an earlier session of this stage ended without being asked to, once `open`ed."""
    _read: dict[Path, dict[str, Any] | None] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """All of it."""
        return self.stage / MIDWAY

    def open(self, belongs: Mapping[str, Any]) -> int:
        """Drop what belongs to something else; how many updates are done where training goes on.

        Logs are cut to those updates; everything else in the stage's folder is removed.
        """
        killed = False
        if self.processes.first:
            killed = self.stage.is_dir() and not there(self.folder / STOPPED)
            reached = self._reached(belongs)
            kept = [MIDWAY, *(_LOGS if reached else ())]
            for path in self.stage.iterdir() if self.stage.is_dir() else ():
                if path.name not in kept:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.stage.mkdir(parents=True, exist_ok=True)
            if reached is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            (self.folder / STOPPED).unlink(missing_ok=True)
        self.killed = self.processes.any(killed)
        return self.processes.agreed(reached or 0 if self.processes.first else 0)

    def stopped(self) -> None:
        """Note that this session ends because it was asked to."""
        if self.processes.first and self.folder.is_dir():
            with contextlib.suppress(OSError):
                (self.folder / STOPPED).touch()

    def _reached(self, belongs: Mapping[str, Any]) -> int | None:
        """None: nothing of it may be used."""
        file = self.folder / BELONGS
        if not there(file):
            return None
        try:
            known = read_sealed(file, AGAIN)
        except RunError as error:
            self.warn(str(error))
            return None
        known.pop(SEAL, None)
        if known != belongs:
            differs = [key for key in belongs if known.get(key) != belongs[key]]
            self.warn(f"{self.folder}: of {_others(differs)}, so that the stage begins again")
            return None
        places = [*self.folder.glob("phase-*"), *self.folder.glob("update-*")]
        found = [about["course"]["done"] for place in places if (about := self.read(place))]
        reached = max(found, default=0)
        return reached if self._cut_logs(reached) else None

    def _cut_logs(self, reached: int) -> bool:
        """Whether every update that was saved is in the log."""
        try:
            logs = [
                [line for line in read_records(file) if line["step"] <= reached]
                if there(file := self.stage / name)
                else []
                for name in _LOGS
            ]
        except (RunError, KeyError):
            logs = [_whole_lines(self.stage / name, reached) for name in _LOGS]
        if len(logs[0]) != reached:
            self.warn(f"{self.stage / _LOGS[0]}: not as it was written: the stage begins again")
            return False
        for name, lines in zip(_LOGS, logs, strict=True):
            if there(self.stage / name):
                write_records(self.stage / name, lines)
        return True

    def read(self, place: Path) -> dict[str, Any] | None:
        """`about.json` of what was saved whole; None where nothing was, or it is damaged."""
        if place not in self._read:
            self._read[place] = self._verified(place)
        return self._read[place]

    def _verified(self, place: Path) -> dict[str, Any] | None:
        if not place.is_dir():
            return None
        try:
            verify_folder(place)
            return dict(read_json(place / ABOUT))
        except (RunError, ValueError) as error:
            self.warn(f"{str(error).partition(';')[0]}; what was saved there is not used")
            return None

    def told(self, place: Path) -> dict[str, Any] | None:
        """What the first process reads there, for all."""
        found: dict[str, Any] | None = self.processes.told(lambda: self.read(place))
        return found

    def publish(
        self,
        place: Path,
        belongs: Mapping[str, Any],
        write: Callable[[Path], None],
        about: Mapping[str, Any],
    ) -> float:
        """Every process writes its part; returns the seconds that it took.

        What cannot be written (a full disk) is said, once: training goes on without it, and what
        was saved before stays. `unsaved` is true then, in the first process at least.
        """
        began = time.monotonic()
        temporary = place.with_name(f".{place.name}.tmp")
        faults: list[str] = []

        def begin() -> None:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            if not there(self.folder / BELONGS):
                write_sealed(self.folder / BELONGS, belongs)

        def finish() -> None:
            write_json(temporary / ABOUT, dict(about))
            publish_folder(temporary, place)

        if self.processes.first:
            _tried(begin, faults)
        self.processes.wait()
        _tried(lambda: write(temporary), faults)
        failed = self.processes.any(bool(faults))
        if self.processes.first:
            if not failed:
                _tried(finish, faults)
            self._note_unsaved(temporary, faults, failed or bool(faults))
        self.unsaved = failed or bool(faults)
        self._read.pop(place, None)
        return time.monotonic() - began

    def _note_unsaved(self, temporary: Path, faults: Sequence[str], failed: bool) -> None:
        """Say that a save failed where the one before did not."""
        if not failed:
            return
        shutil.rmtree(temporary, ignore_errors=True)
        if not self.unsaved:
            reason = faults[0] if faults else "in another process"
            kept = [path.name for path in (*self.folder.glob("phase-*"), *self.updates())]
            before = f"the last save is {kept[-1]}" if kept else "there is none before it"
            self.warn(f"warning: cannot save: {reason}; training goes on, {before}")

    def updates(self) -> list[Path]:
        """Saved updates, the last one last."""
        found = [path for path in self.folder.glob("update-*") if path.name[7:].isdigit()]
        return sorted(found, key=lambda path: int(path.name[7:]))


_LOGS = ("train.jsonl", "curve.jsonl")


def _tried(work: Callable[[], None], faults: list[str]) -> None:
    """Do it if nothing has failed so far, and note why it fails."""
    try:
        if not faults:
            work()
    except OSError as error:
        faults.append(what_failed(error))


def _others(keys: list[str]) -> str:
    return f"another start ({', '.join(keys)} differ)" if keys else "another version"


def _whole_lines(file: Path, reached: int) -> list[dict[str, Any]]:
    """The lines of a log whose last one was cut short by a kill."""
    import json

    found: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8").split("\n") if there(file) else ():
        try:
            record = json.loads(line)
            if record["step"] <= reached:
                found.append(record)
        except (ValueError, KeyError, TypeError):
            break
    return found
