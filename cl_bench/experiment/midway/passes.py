"""Passes over data outside of the updates (a Fisher), which go on where they were interrupted."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from cl_bench.experiment.midway.generators import generators, set_generators
from cl_bench.experiment.midway.held import NotSavedError
from cl_bench.experiment.midway.pace import Pace
from cl_bench.experiment.midway.places import Places
from cl_bench.experiment.midway.stops import StoppedError, Stops
from cl_bench.models.checkpoints import load_tensors, save_tensors
from cl_bench.training.sharding import is_split

T = TypeVar("T")


@dataclass
class Passes:
    """Those of one stage; the hooks of its method make them in the same order in every session."""

    places: Places
    belongs: Mapping[str, Any]
    pace: Pace
    stops: Stops
    device: torch.device
    _count: int = 0

    def passed(self, sums: Mapping[str, Tensor], batches: Iterable[T]) -> Iterator[T]:
        """The batches that are still to be added to `sums`, which get what was saved.

        Of several processes each has its own share, and they wait for each other inside: there, and
        where sums are split, a pass that is interrupted begins again.
        """
        self._count += 1
        split = any(is_split(value) for value in sums.values())
        if not self.pace.on or self.places.processes.world > 1 or split:
            yield from batches
            return
        self.pace.expect(sum(value.nbytes for value in sums.values()))
        place, began = self.places.folder / f"pass-{self._count}", time.monotonic()
        done = self._pass_done(place, sums)
        if done is None:
            return
        with self.stops.saved_for():
            for number, batch in enumerate(batches, 1):
                if number <= done:
                    continue
                yield batch
                stops = self.stops.asked
                if stops or self.pace.due():
                    self._save_pass(place, sums, number)
                if stops:
                    self.places.stopped()
                    raise StoppedError
        if time.monotonic() - began > self.pace.long:
            self._save_pass(place, sums, None)

    def _pass_done(self, place: Path, sums: Mapping[str, Tensor]) -> int | None:
        """How many of its batches are; None: all. Puts the saved sums in."""
        found = self.places.read(place)
        if found is None:
            return 0
        tensors, done = load_tensors(place / "sums.safetensors"), found["batches"]
        if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in sums.items()}:
            raise NotSavedError("a pass over data sums up something else this time")
        for name, value in sums.items():
            value.copy_(tensors[name])
        drawn = load_tensors(place / "generators.safetensors")
        set_generators(found["generators"], drawn, self.device)
        return None if done is None else int(done)

    def _save_pass(self, place: Path, sums: Mapping[str, Tensor], batches: int | None) -> None:
        values, drawn = generators(self.device)

        def write(folder: Path) -> None:
            save_tensors(folder / "sums.safetensors", dict(sums))
            save_tensors(folder / "generators.safetensors", drawn)

        about = {"batches": batches, "generators": values}
        self.pace.saved(self.places.publish(place, self.belongs, write, about))
