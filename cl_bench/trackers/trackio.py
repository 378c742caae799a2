"""Trackio: a local database below `tracking/trackio/`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from cl_bench.trackers.base import TrackedRun


class Trackio:
    """A run of the project that has the experiment's name, under its own name."""

    package: ClassVar[str] = "trackio"
    install: ClassVar[str] = "trackio"

    def begin(self, run: TrackedRun) -> str:
        """The folder is read when the package is imported; one that is set already stays."""
        os.environ.setdefault("TRACKIO_DIR", str(run.folder.resolve()))
        trackio = import_module("trackio")
        self._run: Any = trackio.init(
            project=run.experiment,
            name=run.name,
            config=dict(run.config),
            resume="allow",
            embed=False,
        )
        return run.name

    def step(self, stage: str, update: int, values: Mapping[str, float]) -> None:
        """The update is a value, too: the package's own steps count everything that is logged."""
        named = {f"train/{stage}/{name}": value for name, value in values.items()}
        self._run.log({f"train/{stage}/update": update, **named})

    def scores(self, stage: int, values: Mapping[str, float]) -> None:
        """With the stage beside them."""
        self._run.log({"stage": stage, **{f"score/{name}": v for name, v in values.items()}})

    def end(self, state: str) -> None:
        """The state is not kept."""
        self._run.finish()
