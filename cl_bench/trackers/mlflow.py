"""MLflow: below `tracking/mlflow/`, or the server that `MLFLOW_TRACKING_URI` names."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from cl_bench.trackers.base import TrackedRun

LONGEST = 500
"""Characters of a parameter, which every version takes."""
AT_ONCE = 100
"""Parameters of one request."""
SECONDS = 1.0
"""Between two requests with the values of updates."""
ENDS = {"finished": "FINISHED", "interrupted": "KILLED"}


class MLflow:
    """A run of the experiment that has our experiment's name."""

    package: ClassVar[str] = "mlflow"
    install: ClassVar[str] = "mlflow-skinny"

    def begin(self, run: TrackedRun) -> str:
        """Its own state is left alone: no active run, no tracking URI of the process."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # no network unless asked for
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow = import_module("mlflow")
        self._metric = import_module("mlflow.entities").Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI") or run.folder.resolve().as_uri()
        self._client: Any = mlflow.MlflowClient(uri)
        self._waiting: list[Any] = []
        self._sent = time.monotonic()
        if run.id is not None:
            self._id = run.id
            self._client.update_run(self._id, status="RUNNING")
            return self._id
        known = self._client.get_experiment_by_name(run.experiment)
        there = known.experiment_id if known else self._client.create_experiment(run.experiment)
        self._id = str(self._client.create_run(there, run_name=run.name).info.run_id)
        self._parameters(run.config)
        return self._id

    def _parameters(self, config: Mapping[str, Any]) -> None:
        kind = import_module("mlflow.entities").Param
        flat = [kind(name, text[:LONGEST]) for name, text in _flat("", config)]
        for first in range(0, len(flat), AT_ONCE):
            self._client.log_batch(self._id, params=flat[first : first + AT_ONCE])

    def step(self, stage: str, update: int, values: Mapping[str, float]) -> None:
        """`train/2-trace_fomc/loss` over updates."""
        self._wait({f"train/{stage}/{name}": value for name, value in values.items()}, update)
        if time.monotonic() - self._sent > SECONDS or len(self._waiting) > 500:
            self._send()

    def scores(self, stage: int, values: Mapping[str, float]) -> None:
        """`score/trace_fomc` over stages."""
        self._wait({f"score/{name}": value for name, value in values.items()}, stage)
        self._send()

    def _wait(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._waiting += [self._metric(_name(k), v, now, step) for k, v in values.items()]

    def _send(self) -> None:
        waiting, self._waiting, self._sent = self._waiting, [], time.monotonic()
        if waiting:
            self._client.log_batch(self._id, metrics=waiting)

    def end(self, state: str) -> None:
        """A run that was interrupted is `KILLED` until it goes on."""
        self._send()
        self._client.set_terminated(self._id, ENDS.get(state, "FAILED"))


def _name(text: str) -> str:
    """Letters that every version takes."""
    return re.sub(r"[^\w\-. /]", "_", text)


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    """`stages.0.train.lr` and its text, for every value inside."""
    if isinstance(value, Mapping):
        inside = [(str(key), one) for key, one in value.items()]
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        inside = [(str(number), one) for number, one in enumerate(value)]
    else:
        return [(_name(prefix), str(value))]
    dot = f"{prefix}." if prefix else ""
    return [found for key, one in inside for found in _flat(f"{dot}{key}", one)]
