"""An interrupted stage is taken up: what is saved on the way, when, and how it is put back.

The hooks of the method run again from the stage's start, with what was saved in place of the work
that it took: sums of passes, ends of phases, the last saved update. What was not saved is done
again and gives the same bits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cl_bench.experiment.midway.course import Course
from cl_bench.experiment.midway.generators import generators, set_generators
from cl_bench.experiment.midway.held import Held, Living, NotSavedError, held, put_back
from cl_bench.experiment.midway.pace import Pace
from cl_bench.experiment.midway.places import SPARE, Places
from cl_bench.experiment.midway.stops import StoppedError, Stops
from cl_bench.experiment.peak_memory import peak_memory_mb
from cl_bench.methods.base import Method, Stage
from cl_bench.models.checkpoints import load_tensors, save_tensors
from cl_bench.store.file_errors import writing
from cl_bench.store.tensor_file import write_over
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.sharding import is_sharded, own_part
from cl_bench.training.update_plan import UpdatePlan

ENGINE = "engine.safetensors"
"""The masters and moments of a save."""
WEIGHTS = "weights.safetensors"
"""Those that were trained, at the end of a phase."""


class Clock(Protocol):
    """Something that takes time within the training, which is counted apart."""

    seconds: float


@dataclass
class _Now:
    """The phase that is trained."""

    stage: Stage
    method: Method
    engine: SelectiveUpdate
    course: Course
    plan: str
    """Checksum of what is trained."""
    living: Living
    files: list[tuple[str, int, int]]
    """Of `stage.folder`, as the phase began."""


@dataclass
class Saves:
    """What one stage saves on its way."""

    places: Places
    belongs: Mapping[str, Any]
    pace: Pace
    stops: Stops
    device: torch.device
    apart: Clock | None = None
    seconds: float = 0.0
    """Of the work that earlier sessions saved."""
    saved_before: float = 0.0
    """Seconds that the saves of earlier sessions took."""
    peak_mb: int = 0
    """The largest of earlier sessions."""
    _began: float = field(default_factory=time.monotonic)
    _phase_began: float = 0.0
    _now: _Now | None = None

    @property
    def on(self) -> bool:
        """Whether anything is saved."""
        return self.pace.on

    def spent(self) -> float:
        """Seconds of the stage so far, in all sessions."""
        return self.seconds + time.monotonic() - self._began

    def saving(self) -> float:
        """Seconds of them that saves took, of passes too; without those at which sessions ended."""
        return self.saved_before + self.pace.spent

    def peak(self) -> int | None:
        """MB at the fullest moment of all sessions."""
        now = peak_memory_mb()
        return None if now is None else max(now, self.peak_mb)

    def ended(self, stage: Stage, method: Method, course: Course) -> bool:
        """Whether this phase was trained to its end; then the model and the method are as then."""
        self._phase_began = time.monotonic()
        place = self.places.folder / f"phase-{course.phase + 1}"
        found = self.places.told(place) if self.on else None
        if found is None:
            return False
        own = _weights(stage)
        with torch.no_grad():
            for name, value in load_tensors(place / self._part(WEIGHTS, stage)).items():
                own_part(own[name]).copy_(value)
        self._restore(place, found, stage, method, Living(own), course)
        return True

    @contextmanager
    def in_phase(
        self,
        stage: Stage,
        method: Method,
        engine: SelectiveUpdate,
        plan: UpdatePlan,
        course: Course,
    ) -> Iterator[None]:
        """While open, updates can be saved; begins where the phase was, if it was saved.

        Raises NotSavedError where what was saved does not fit what the hooks gave.
        """
        if not self.on:
            yield
            return
        files = _files(stage.scratch)
        living = _living(stage, engine)
        self.pace.expect(sum(value.nbytes for value in engine.state_dict().values()))
        self._now = _Now(stage, method, engine, course, _checksum(plan), living, files)
        place = self._last_update(course.phase)
        found = None if place is None else self.places.told(place)
        if place is not None and found is not None:
            if found["plan"] != self._now.plan:
                raise NotSavedError("what is trained was chosen otherwise this time")
            try:
                engine.load_state_dict(load_tensors(place / self._part(ENGINE, stage)))
            except ValueError as error:
                raise NotSavedError(str(error)) from error
            self._restore(place, found, stage, method, living, course)
        try:
            with self.stops.saved_for():
                yield
        finally:
            self._now = None

    def after_update(self) -> None:
        """Save if it is time or the run is to stop; raises StoppedError then."""
        if self._now is None:
            return
        due = self.pace.due(self._now.course.done)
        wanted = 2 if self.stops.asked else int(due)
        wanted = self.places.processes.agreed(wanted)
        if wanted == 2:
            self.places.unsaved = False  # a save that fails now is said, whatever was said before
        if wanted:
            self._save_update()
        if wanted == 2:
            self.places.stopped()
            raise StoppedError

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """For something long between two updates: when it is interrupted, they are saved."""
        try:
            with self.stops.ended_at_once():
                yield
        except KeyboardInterrupt:
            if self.places.processes.world == 1:
                self._save_update()
                self.places.stopped()
            raise

    def after_phase(
        self, stage: Stage, method: Method, engine: SelectiveUpdate, course: Course
    ) -> None:
        """Save the end of a phase that others may follow, or of a long one before `finish`.

        No update of it is needed then. The engine is closed, and the model an ordinary one.
        """
        long = time.monotonic() - self._phase_began > self.pace.long
        wanted = method.answers("phases") or (method.answers("finish") and long)
        if not self.on or not self.places.processes.agreed(int(wanted)):
            return
        own = _weights(stage)

        def write(folder: Path) -> None:
            trained = {name: own_part(own[name]).data for name in engine.masters}
            save_tensors(folder / self._part(WEIGHTS, stage), trained)

        place = self.places.folder / f"phase-{course.phase + 1}"
        self._save(place, write, {}, stage, method, Living(own), course)

    # --- Inside

    def _save_update(self) -> None:
        """All that the next update depends on."""
        now = self._now
        if now is None or not self.on:
            return

        def write(folder: Path) -> None:
            state, file = now.engine.state_dict(), folder / self._part(ENGINE, now.stage)
            if state and file.name == ENGINE and self._spare.is_file():
                write_over(self._spare, file, state)
            else:
                save_tensors(file, state)

        place = self.places.folder / f"update-{now.course.done}"
        about = {"plan": now.plan}
        self._save(place, write, about, now.stage, now.method, now.living, now.course)

    def _give_up(self, stage: Stage, method: Method, error: NotSavedError) -> None:
        self.pace.stop()
        self.places.warn(
            f"stage {stage.index} ({stage.task}): cannot be saved before it is trained, so that "
            f"one that is interrupted begins again: method {method.name}: {error}"
        )

    def _save(
        self,
        place: Path,
        write: Callable[[Path], None],
        about: Mapping[str, Any],
        stage: Stage,
        method: Method,
        living: Living,
        course: Course,
    ) -> None:
        """Each process writes what it holds, the first the rest; earlier updates are removed."""
        processes = self.places.processes
        own, fault = Held([], {}), None
        try:
            if self._now is not None and _files(stage.scratch) != self._now.files:
                raise NotSavedError("files in stage.folder change with the updates")
            own = held(method, living)
        except NotSavedError as error:
            fault = error
        if processes.any(fault is not None):  # all go on without it, or none
            self._give_up(stage, method, fault or NotSavedError("of another process"))
            return
        values, drawn = generators(self.device)
        before = self.places.updates()

        def all_of_it(folder: Path) -> None:
            if processes.first or is_sharded(stage.model):
                write(folder)
            tensors = {f"method/{name}": value for name, value in own.tensors.items()}
            tensors |= {f"generators/{name}": value for name, value in drawn.items()}
            save_tensors(folder / f"process-{processes.rank}.safetensors", tensors)
            mine = {"generators": values, "method": own.tree, "notes": stage.notes}
            own_file = folder / f"process-{processes.rank}.json"
            with writing(own_file):
                own_file.write_text(json.dumps(mine))

        whole = {
            **about,
            "course": asdict(course),
            "numbered": stage.numbered,
            "seconds": self.spent(),
            "saving": self.saving(),
            "apart": 0.0 if self.apart is None else self.apart.seconds,
            "peak_mb": max(self.peak_mb, peak_memory_mb() or 0),
        }
        self.pace.saved(self.places.publish(place, self.belongs, all_of_it, whole))
        for old in before if processes.first and not self.places.unsaved else ():
            if old != place:
                self._remove(old)

    @property
    def _spare(self) -> Path:
        return self.places.folder / SPARE

    def _remove(self, old: Path) -> None:
        """A save, of which the largest file stays for the next one to be written over."""
        with contextlib.suppress(OSError):
            (old / ENGINE).replace(self._spare)
        shutil.rmtree(old, ignore_errors=True)

    def _restore(
        self,
        place: Path,
        found: Mapping[str, Any],
        stage: Stage,
        method: Method,
        living: Living,
        course: Course,
    ) -> None:
        if found["numbered"] != stage.numbered:
            raise NotSavedError("the method looks at other examples this time")
        rank = self.places.processes.rank
        tensors = load_tensors(place / f"process-{rank}.safetensors")
        mine = json.loads((place / f"process-{rank}.json").read_text())
        put_back(method, Held(mine["method"], _under(tensors, "method/")), living)
        stage.notes.clear()
        stage.notes.update(mine["notes"])
        for key, value in found["course"].items():
            setattr(course, key, value)
        self.seconds, self._began = float(found["seconds"]), time.monotonic()
        self.peak_mb = int(found["peak_mb"])
        self.saved_before = float(found["saving"])
        if self.apart is not None:
            self.apart.seconds = float(found["apart"])
        set_generators(mine["generators"], _under(tensors, "generators/"), self.device)

    def _part(self, what: str, stage: Stage) -> str:
        """A file for all processes, or of split weights this one's."""
        if not is_sharded(stage.model):
            return what
        name = Path(what)
        return f"{name.stem}-{self.places.processes.rank}{name.suffix}"

    def _last_update(self, phase: int) -> Path | None:
        """The last update that was saved, if it is of this phase; as the first process sees it."""
        number = -1
        for path in self.places.updates() if self.places.processes.first else ():
            found = self.places.read(path)
            if found is not None and found["course"]["phase"] == phase:
                number = int(path.name[7:])
        number = self.places.processes.agreed(number + 1) - 1
        return None if number < 0 else self.places.folder / f"update-{number}"


def _weights(stage: Stage) -> dict[str, Tensor]:
    return dict(stage.model.named_parameters())


def _living(stage: Stage, engine: SelectiveUpdate) -> Living:
    named: dict[str, Tensor] = dict(_weights(stage))
    named |= {f"{name} (state)": value for name, value in engine.state_dict().items()}
    named |= {f"{name} (gradient)": value for name, value in engine.grads.items()}
    return Living(named)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _checksum(plan: UpdatePlan) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(plan.tensors().items()):
        digest.update(name.encode())
        digest.update(content.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _files(folder: Path | None) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a folder's files."""
    if folder is None or not folder.is_dir():
        return []
    found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found]
