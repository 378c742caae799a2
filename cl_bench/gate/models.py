"""Which of the two forms a gate has: stages that are scored, or model folders."""

from __future__ import annotations

import re

from cl_bench.config.schema import QUICKSTART_MODEL
from cl_bench.errors import UserError
from cl_bench.models.load import model_path_fault
from cl_bench.resources import expanded

FILES = ("config.json", "adapter_config.json", "delta.json", "function_adapter.json")
"""What only folders of models have."""
UNITS = {"s": 1, "m": 60, "h": 3600}


def are_models(old: str, new: str) -> bool:
    """Whether both are models rather than stages.

    Raises UserError for one of each, and for folders that hold no whole model.
    """
    sides = {text: _is_model(text) for text in (old, new)}
    if len(set(sides.values())) > 1:
        model = next(text for text, is_model in sides.items() if is_model)
        other = next(text for text, is_model in sides.items() if not is_model)
        raise UserError(
            f"{model} is a model folder and {other} is none: gate two stages, or two model folders "
            "(`cl-bench export` writes that of a stage)"
        )
    if sides[old] and (faults := [fault for text in sides if (fault := model_path_fault(text))]):
        raise UserError([fault.removeprefix("model.path: ") for fault in faults])
    return sides[old]


def _is_model(text: str) -> bool:
    folder = expanded(text)
    return text == QUICKSTART_MODEL or any((folder / name).is_file() for name in FILES)


def seconds_of_budget(budget: str | None) -> float | None:
    """`90s`, `10m`, `1.5h` in seconds. Raises UserError for anything else."""
    if budget is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", budget)
    if found is None or float(found[1]) == 0:
        raise UserError(f"--budget {budget}: a time such as 90s, 10m or 1.5h is needed")
    return float(found[1]) * UNITS[found[2]]
