"""Weights & Biases: below `tracking/wandb/`, sent to the service only where WANDB_MODE says so."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from cl_bench.trackers.base import TrackedRun


class WandB:
    """A run of the project that has the experiment's name; offline unless WANDB_MODE is set."""

    package: ClassVar[str] = "wandb"
    install: ClassVar[str] = "wandb"

    def begin(self, run: TrackedRun) -> str:
        """Sessions of one run have one id: `wandb sync` joins what was written offline."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        wandb = import_module("wandb")
        run.folder.mkdir(parents=True, exist_ok=True)
        identity = run.id or uuid.uuid4().hex[:12]
        self._run: Any = wandb.init(
            project=run.experiment,
            name=run.name,
            id=identity,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
            mode=os.environ.get("WANDB_MODE") or "offline",
        )
        self._defined: set[str] = set()
        self._run.define_metric("stage")
        self._run.define_metric("score/*", step_metric="stage")
        return identity

    def step(self, stage: str, update: int, values: Mapping[str, float]) -> None:
        """Each stage has its own axis: the service takes no step twice, and a stage may repeat."""
        axis = f"train/{stage}/update"
        if axis not in self._defined:
            self._defined.add(axis)
            self._run.define_metric(axis)
            self._run.define_metric(f"train/{stage}/*", step_metric=axis)
        self._run.log({axis: update, **{f"train/{stage}/{k}": v for k, v in values.items()}})

    def scores(self, stage: int, values: Mapping[str, float]) -> None:
        """Over stages."""
        self._run.log({"stage": stage, **{f"score/{name}": v for name, v in values.items()}})

    def end(self, state: str) -> None:
        """Only a run that failed ends as failed: one that was interrupted goes on."""
        self._run.finish(exit_code=0 if state in ("finished", "interrupted") else 1)
