"""A config with faults: what else is wrong with it, so that all is said in one message."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from cl_bench.config.schema import ExperimentConfig

STAND_INS: dict[str, Any] = {
    "name": "x",
    "model": {"path": "x"},
    "methods": ["sft"],
    "stages": [{"task": "mini_fomc"}],
}
"""In the place of required keys that were wrong."""


def sound_part(data: dict[str, Any]) -> ExperimentConfig | None:
    """The config without every key that is wrong; None where nothing is left to look at."""
    data = copy.deepcopy(data)
    for _ in range(1000):  # each round drops one thing
        try:
            return ExperimentConfig.model_validate(data)
        except ValidationError as error:
            location = error.errors()[0]["loc"]
            if not location or not _drop(data, location):
                return None
    return None


def _drop(data: dict[str, Any], location: Sequence[int | str]) -> bool:
    """Remove what a fault is about, or the nearest thing around it that is there."""
    place: Any = data
    holder: tuple[Any, Any] | None = None
    for part in location:
        items = range(len(place)) if isinstance(place, list) else place
        if not isinstance(items, dict | range) or part not in items:
            break
        holder, place = (place, part), place[part]
    if holder is not None:
        del holder[0][holder[1]]
    key = str(location[0])
    if not data.get(key) and key in STAND_INS:
        data[key] = copy.deepcopy(STAND_INS[key])
        return True
    return holder is not None
