"""Which trackers there are, and whether what a config names is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec

from cl_bench.trackers.base import Tracker
from cl_bench.trackers.mlflow import MLflow
from cl_bench.trackers.tensorboard import TensorBoard
from cl_bench.trackers.trackio import Trackio
from cl_bench.trackers.wandb import WandB

TRACKERS: Mapping[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}
"""By the name that `track:` takes."""


def tracker_faults(names: Sequence[str]) -> Iterator[str]:
    """A line for each that is not installed."""
    for name in names:
        tracker = TRACKERS[name]
        if find_spec(tracker.package) is None:
            yield (
                f"track: {name}: the package '{tracker.package}' is not installed: "
                f"pip install '{tracker.install}' (or leave {name} out of track:)"
            )
