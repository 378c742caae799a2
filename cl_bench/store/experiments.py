"""Experiments and their runs: `experiment.json`, `run.json`, and how both are found by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError, UserError, nearest
from cl_bench.store.folders import RunFolder, is_stage, read_json, sha256_of, there, write_json
from cl_bench.store.links import check_links
from cl_bench.store.once import once
from cl_bench.store.seals import read_sealed, seal_of, write_sealed
from cl_bench.store.shapes import (
    ExperimentShape,
    RunShape,
    WholeExperiment,
    WholeRun,
    check_shape,
    task_names,
)

EXPERIMENT = "experiment.json"
RUN = "run.json"
RUN_SEAL = "seal"
"""In `run.json`, whose `sha256` is that of its `config` alone."""


def write_experiment(folder: Path, data: Mapping[str, Any]) -> None:
    """`experiment.json`: `config`, `last_run`, `notes`, and the checksum of it all."""
    write_sealed(folder / EXPERIMENT, data)


def read_experiment(folder: Path, whole: bool = False) -> dict[str, Any]:
    """What `write_experiment` wrote; raises RunError when it is damaged or was edited.

    `whole`: also when a key is missing that reports read.
    """
    remedy = "restore it from a copy, or run the experiment's config again, which writes it anew"
    found = read_sealed(folder / EXPERIMENT, remedy, {"config": dict, "last_run": str})
    shape = WholeExperiment if whole else ExperimentShape
    check_shape(folder / EXPERIMENT, found, shape, remedy)
    return found


def write_run(file: Path, record: Mapping[str, Any]) -> None:
    """`run.json`: `config` and its checksum `sha256`, what else is recorded, and a seal of it all.

    It is written once: what a run is bound to does not change.
    """
    write_json(file, {**record, RUN_SEAL: seal_of(record, RUN_SEAL)})


def read_run(file: Path, whole: bool = False) -> dict[str, Any]:
    """A `run.json`; raises RunError when it is damaged or was edited.

    `whole`: also when it has no stages.
    """
    kind = "whole run" if whole else "run"
    found: dict[str, Any] = once(kind, file, lambda: _read_run(file, whole))
    return found


def _read_run(file: Path, whole: bool) -> dict[str, Any]:
    remedy = "restore it from a copy: the numbers of this run are bound to it"
    record = read_json(file, remedy)
    known = isinstance(record, dict) and isinstance(record.get("config"), dict)
    if not known or record.get("sha256") != sha256_of(record["config"]):
        raise RunError(f"{file}: its checksum is not that of its config; {remedy}")
    check_shape(file, record["config"], WholeRun if whole else RunShape, remedy)
    stages = record["config"].get("stages", [])
    task_names(file, [name for stage in stages for name in stage.get("tasks", [])], remedy)
    if RUN_SEAL in record and record[RUN_SEAL] != seal_of(record, RUN_SEAL):
        raise RunError(
            f"{file}: its checksum is not that of its content: edited or damaged; {remedy}"
        )
    return dict(record)


def latest_experiment(results: Path) -> Path:
    """The experiment under `results` that was run last."""
    found = [file.parent for file in results.glob(f"*/{EXPERIMENT}")]
    if not found:
        raise UserError(
            f"{results}: no experiment here (a folder with {EXPERIMENT}); run one first or name "
            "its folder"
        )
    return max(found, key=lambda folder: str(read_experiment(folder)["last_run"]))


def is_experiment(given: str, results: Path) -> bool:
    """Whether a path, or a name under `results`, is an experiment's folder."""
    return any(there(place / EXPERIMENT) for place in (Path(given), results / given))


def find_experiment(given: str | None, results: Path) -> Path:
    """An experiment's folder from a path, a name under `results`, or nothing (the latest).

    Raises UserError where there is none, and where links in it lead out of it.
    """
    folder = named_experiment(given, results)
    check_links(folder)
    return folder


def named_experiment(given: str | None, results: Path) -> Path:
    """The same, whatever its links are."""
    if given is None:
        return latest_experiment(results)
    for candidate in (Path(given), results / given):
        if there(candidate / EXPERIMENT):
            return candidate
    known = [file.parent.name for file in results.glob(f"*/{EXPERIMENT}")]
    raise UserError(f"{given}: no experiment ({EXPERIMENT}) there{nearest(given, known)}")


def find_runs(
    experiment: Path,
    method: str | None = None,
    seed: int | None = None,
    faults: list[str] | None = None,
) -> list[RunFolder]:
    """The runs of an experiment, in the order they were started, narrowed by method and seed.

    `method` is a label, or that of an entry with lists, or the name of a method: of all its runs.
    Raises RunError where a `run.json` is damaged; with `faults` it is named there and left out.
    """
    from cl_bench.config.schema import slug

    runs = run_folders(experiment)
    if faults is not None:
        runs = [folder for folder in runs if _readable(folder / RUN, faults)]
    runs.sort(key=lambda folder: (read_run(folder / RUN).get("order", 0), folder.name))
    if method is not None:
        called = {folder: {folder.parent.name, *_method_name(folder)} for folder in runs}
        known = sorted(set().union(*called.values()))
        runs = [folder for folder in runs if slug(method) in map(slug, called[folder])]
        if not runs:
            if any(map(in_context, experiment.glob(f"{slug(method)}/seed-*"))):
                raise UserError(
                    f"--method {method}: the base model with examples in its prompts, which has no "
                    "stages: `cl-bench run` scores it, `cl-bench diff` compares it"
                )
            raise UserError(
                f"--method {method}: no such run in {experiment}{nearest(method, known)}"
            )
    if seed is not None:
        known = sorted({folder.name.removeprefix("seed-") for folder in runs})
        runs = [folder for folder in runs if folder.name == f"seed-{seed}"]
        if not runs:
            raise UserError(
                f"--seed {seed}: no such run in {experiment}{nearest(str(seed), known)}"
            )
    return [RunFolder(folder) for folder in runs]


def in_context(place: Path) -> bool:
    """Whether a folder below a label's holds no run, but a row of the base model with examples.

    It is no run, because nothing is trained: it has scores, and no stages. One whose scoring is not
    finished has its parts.
    """
    scored = there(place / "scores.json") or (place / "partial").is_dir()
    return place.name.startswith("seed-") and scored and not there(place / RUN)


def run_folders(experiment: Path) -> list[Path]:
    """Folders of runs, `<method>/seed-<n>`; a copy that somebody keeps beside them is none."""
    found = experiment.glob(f"*/seed-*/{RUN}")
    return [file.parent for file in found if _is_run(file.parent)]


def _is_run(folder: Path) -> bool:
    return folder.name.removeprefix("seed-").isdecimal()


def _readable(file: Path, faults: list[str]) -> bool:
    try:
        read_run(file)
    except RunError as error:
        faults.append(str(error))
        return False
    return True


def lost_runs(experiment: Path) -> list[Path]:
    """Folders with stages, of which the file that says what they were is not there."""
    stages = [stage for stage in experiment.glob("*/seed-*/stage-*") if is_stage(stage)]
    with_stages = {stage.parent for stage in stages if _is_run(stage.parent)}
    return sorted(folder for folder in with_stages if not there(folder / RUN))


def _method_name(run: Path) -> tuple[str, ...]:
    """The name of the method that a run is trained with, if it is one, and of its entry's lists."""
    from cl_bench.config.labels import one_name

    record = read_run(run / RUN)
    stages, of = record["config"].get("stages", []), record.get("of")
    own = one_name([name for part in stage.get("method", []) for name in part] for stage in stages)
    return (*own, of) if of else own
