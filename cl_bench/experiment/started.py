"""An experiment that goes on where a run of another one was: `model: {from: NAME/sft@3}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cl_bench.errors import UserError
from cl_bench.experiment.stage_files import checkpoint_fault, model_to_score
from cl_bench.models.bases import recorded_base
from cl_bench.results.places import find_run
from cl_bench.store.folders import stage_number


def started(data: dict[str, Any], file: Path, results: Path) -> dict[str, Any]:
    """A config as read, with the folder of that stage's model as `model.path`.

    The run is looked for beside the config, in the current folder and below `results`. Raises
    UserError where there is no such stage, and where its weights are gone or only a part of a
    model.
    """
    model = data.get("model")
    if not isinstance(model, dict) or model.get("from") is None:  # null takes back a parent's
        return data
    given = model["from"]
    if not isinstance(given, str) or not given.partition("@")[0]:
        raise UserError(f"model.from: {given!r}: expected NAME/method@stage, as 2025/sft@3")
    if other := [key for key in ("path", "revision") if model.get(key) is not None]:
        raise UserError(f"model: from: and {other[0]}: both say which model it is: keep one")
    try:
        place = _weights(given, file.parent, results)
    except UserError as error:
        raise UserError([f"model.from: {fault}" for fault in error.faults]) from None
    rest = {key: value for key, value in model.items() if key not in ("from", "path")}
    return {**data, "model": {"path": str(place), **rest}}


def _weights(given: str, beside: Path, results: Path) -> Path:
    """The folder of the model that the scores of the stage (default: the last) are of."""
    name, _, number = given.partition("@")
    run = find_run(str(beside / name) if (beside / name).is_dir() else name, results)
    places = {stage_number(one.path.name): one for one in run.stages()}
    if number and (not number.isdecimal() or int(number) not in places):
        raise UserError(f"{given}: no stage {number} in {run.path} (there: {sorted(places)})")
    if not places:
        raise UserError(f"{given}: no stage in {run.path} yet")
    stage = int(number) if number else max(places)
    if fault := checkpoint_fault(run, places[stage]):
        raise UserError(fault)
    saved = model_to_score(places[stage])
    if recorded_base(saved) is not None:
        raise UserError(
            f"{given}: {saved} holds a part of a model alone: write the whole one with `cl-bench "
            f"export {name} FOLDER --stage {stage} --merge`, and give model: {{path: FOLDER}}"
        )
    return saved.resolve()
