"""TensorBoard: event files below `tracking/tensorboard/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from cl_bench.trackers.base import TrackedRun


class TensorBoard:
    """A folder for each run, to which every session adds a file of events."""

    package: ClassVar[str] = "tensorboard"
    install: ClassVar[str] = "tensorboard"

    def begin(self, run: TrackedRun) -> str:
        """The id is the folder; the same one goes on."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run.folder / run.slug), flush_secs=5)
        if run.id is None:
            text = json.dumps(dict(run.config), indent=1, ensure_ascii=False)
            self._writer.add_text("config", f"```\n{text}\n```")
        return run.slug

    def step(self, stage: str, update: int, values: Mapping[str, float]) -> None:
        """A curve for each stage and value: `train/2-trace_fomc/loss` over updates."""
        for name, value in values.items():
            self._writer.add_scalar(f"train/{stage}/{name}", value, update)

    def scores(self, stage: int, values: Mapping[str, float]) -> None:
        """A curve for each task: `score/trace_fomc` over stages."""
        for name, value in values.items():
            self._writer.add_scalar(f"score/{name}", value, stage)
        self._writer.flush()

    def end(self, state: str) -> None:
        """The state is not kept: event files have no place for it."""
        self._writer.close()
