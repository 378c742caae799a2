"""`experiment.json`: the config of an experiment as it was last opened."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cl_bench.config.schema import ExperimentConfig
from cl_bench.config.stages import HUB, PLACES
from cl_bench.identity.bindings import portable_model
from cl_bench.store.experiments import write_experiment
from cl_bench.store.folders import portable


def as_recorded(config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """The config as read, with places written so that results can be moved (JSON)."""
    data = config.model_dump(mode="json", exclude_unset=True)
    if config.data_root is not None:
        data["data_root"] = portable(config.data_root, folder.resolve())
    data["task_paths"] = [portable(path, folder.resolve()) for path in config.task_paths]
    data["model"] = portable_model(config, folder)
    for stage in data["stages"]:
        places = {key: stage[key] for key in PLACES if stage.get(key)}
        stage |= {
            key: place if place.startswith(HUB) else portable(place, folder.resolve())
            for key, place in places.items()
        }
    return data


def write_opened(config: ExperimentConfig, folder: Path, notes: Sequence[str]) -> None:
    """The config, when it was last run, and what was odd about it."""
    write_experiment(
        folder,
        {
            "last_run": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "config": as_recorded(config, folder),
            "notes": list(notes),
        },
    )
