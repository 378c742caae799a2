"""Whether a host would make the same runs: its config, weights, tasks and rows are the driver's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl_bench.identity.bindings import Contents, base_settings, run_settings
from cl_bench.identity.differences import content_differences, setting_differences
from cl_bench.methods.spec import Experiment, RunSpec


def key_of(run: RunSpec) -> str:
    """A run's name in requests: its folder below the experiment's."""
    return f"{run.slug}/seed-{run.seed}"


def described(experiment: Experiment, contents: Contents, folder: Path) -> dict[str, Any]:
    """What is compared, a JSON value. `folder`: the experiment's."""
    settings = {key_of(run): run_settings(experiment, run, folder) for run in experiment.runs}
    base = base_settings(experiment, folder)
    return {"settings": {"base": base, **settings}, "contents": contents}


def differences(driver: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What is not the same, in words."""
    found = []
    for path, theirs, ours in setting_differences(driver["settings"], here["settings"]):
        if path[0] == "base" or len(path) == 1:
            found.append(f"the config differs in {'.'.join(path)}")
        else:
            found.append(f"the config differs in {'.'.join(path[1:])}: {ours}, not {theirs}")
    found += content_differences(driver["contents"], here["contents"])
    return [f"{line} (not as on the driver's host)" for line in dict.fromkeys(found)]
