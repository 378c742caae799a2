"""`cl-bench verify`: every file of an experiment against its checksum; what is missing for what.

Reads only. A run asks of a finished stage what is quick to ask (`stage_files.check_done`); here
every byte is read, and all faults are found, not the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError, UserError
from cl_bench.experiment.midway.places import AGAIN, BELONGS, MIDWAY, SPARE, STOPPED
from cl_bench.experiment.stage_files import (
    DELETED,
    LOGS,
    STATE_FILES,
    check_training,
    model_to_score,
    read_failure,
    why_deleted,
)
from cl_bench.store.deltas import read_delta
from cl_bench.store.experiments import (
    EXPERIMENT,
    RUN,
    in_context,
    lost_runs,
    read_experiment,
    read_run,
    run_folders,
)
from cl_bench.store.folders import (
    DELTA,
    MANIFEST,
    RunFolder,
    StageFolder,
    delta_place,
    is_stage,
    read_manifest,
    stage_number,
    there,
    train_again,
)
from cl_bench.store.links import links_out
from cl_bench.store.seals import FILES, file_fault, read_scores, read_sealed
from cl_bench.store.status_file import STATUS
from cl_bench.trackers.tracked import TRACKING

DERIVED = (
    *("summary.json", "curves.png", "curves.svg"),
    *("kl-general.json", "kl-general.png", "kl-general.svg", ".lock", STATUS),
)
REPORTS = [
    *(f"report*.{suffix}" for suffix in ("md", "tex", "csv", "json", "html")),
    "report-figures/*.svg",
    *("status-*.json", ".opening.lock"),
]
"""Made again by each report, or of processes that share the folder: nothing depends on them."""
SPARED = (*STATE_FILES, *LOGS)
"""What a finished stage may lack: deleted to save room."""


@dataclass
class Findings:
    """What was read and what is wrong with it."""

    faults: list[str] = field(default_factory=list)
    """Damaged or missing, with the remedy."""
    notes: list[str] = field(default_factory=list)
    """What was deleted to save room, is not finished, or belongs to nothing."""
    known: set[Path] = field(default_factory=set)
    """Files that some record names, or that reports make again."""
    compared: int = 0
    """Files that were read and compared."""

    def ask(self, question: Callable[[], Any]) -> Any:
        """The answer, a file's content as a rule; None where it is a fault."""
        try:
            answer = question()
            self.compared += isinstance(answer, dict)
            return answer
        except RunError as error:
            self.faults.append(str(error))
            return None
        except UserError as error:  # what it belongs to is gone
            self.faults += map(str, error.faults)
            return None

    def compare(self, folder: Path, recorded: Mapping[str, Mapping[str, Any]], remedy: str) -> None:
        """Files of a folder with their records."""
        for name, expected in recorded.items():
            self.known.add(folder / name)
            self.compared += 1
            if fault := file_fault(folder / name, expected):
                self.faults.append(f"{folder / name}: {fault}; {remedy}")


def verify(experiment: Path) -> Findings:
    """Look at all files of an experiment's folder."""
    found = Findings(faults=links_out(experiment))
    if found.faults:
        found.notes.append(f"{experiment}: nothing in it was read, since links lead out of it")
        return found
    found.known |= {experiment / name for name in (*DERIVED, EXPERIMENT)}
    found.known |= {file for pattern in REPORTS for file in experiment.glob(pattern)}
    found.known |= set(experiment.rglob(".lock"))
    found.known |= set((experiment / TRACKING).rglob("*"))
    found.ask(lambda: read_experiment(experiment, whole=True))
    found.ask(lambda: _scores(found, experiment / "base"))
    for lost in lost_runs(experiment):
        found.faults.append(
            f"{lost / RUN}: not there, so that nothing says what its stages are; restore it from a "
            f"copy, or delete {lost}"
        )
    for place in sorted(path for path in experiment.glob("*/seed-*") if in_context(path)):
        _scores(found, place)
    for folder in sorted(run_folders(experiment)):
        found.known.add(folder / RUN)
        _run(found, folder / RUN)
    _strangers(found, experiment)
    return found


def _run(found: Findings, file: Path) -> None:
    record = found.ask(lambda: read_run(file, whole=True))
    folder = file.parent
    found.known.add(folder / "summary.json")
    if record is not None:
        numbers = {stage_number(stage.path.name) for stage in RunFolder(folder).stages()}
        for number in range(1, len(record["config"].get("stages", [])) + 1):
            if number not in numbers:
                found.notes.append(f"{folder}: stage {number} is not begun; `cl-bench run` goes on")
    for stage in RunFolder(folder).stages():
        found.ask(partial(_stage, found, stage))


def _stage(found: Findings, place: StageFolder) -> None:
    """One stage: its training, its checkpoint, the model that is scored, its scores."""
    path = place.path
    found.known |= {
        path / name for name in ("trained.json", "timing.json", "retrained.json", DELETED)
    }
    if there(place.failure_file):
        found.known.add(place.failure_file)
        if failure := found.ask(lambda: read_failure(place)):
            found.notes.append(f"{path}: its training ended: {failure['what']}")
        return
    for folder in (place.checkpoint, place.scored_model):
        _published(found, folder)
    _midway(found, path)
    for name in ("timing.json", "retrained.json", DELETED):
        if there(path / name):
            found.ask(partial(read_sealed, path / name, f"delete {path / name}"))
    if there(place.training_file):
        again = train_again(place.checkpoint)
        record = found.ask(lambda: read_sealed(place.training_file, again, {"files": dict}))
        if record is not None:
            needed = {
                name: one
                for name, one in record["files"].items()
                if there(path / name) or not (place.scored and name in SPARED)
            }
            found.compare(path, needed, again)
            found.known |= {path / name for name in record["files"]}
    trained = found.ask(lambda: place.trained)
    if trained:
        found.ask(partial(model_to_score, place))
        if line := found.ask(partial(check_training, place)):
            found.notes.append(line)
    elif place.scored and trained is False:
        by = found.ask(lambda: why_deleted(place) or "")
        setting = f" ({by})" if by else ""
        found.notes.append(f"{place.checkpoint}: deleted after the stage was scored{setting}")
    if place.scored:
        _scores(found, path)
    else:
        found.notes.append(f"{path}: not finished; `cl-bench run` goes on")
    for evaluation in sorted(path.glob("evals/*/")):
        _scores(found, evaluation)


def _midway(found: Findings, stage: Path) -> None:
    """What an interrupted training goes on from; damaged, it costs the updates since the start."""
    belongs = stage / MIDWAY / BELONGS
    found.known |= {stage / MIDWAY / STOPPED, stage / MIDWAY / SPARE}
    if there(belongs):
        found.known.add(belongs)
        found.ask(lambda: read_sealed(belongs, f"`cl-bench run` does not use it: {AGAIN}"))
    for folder in sorted((stage / MIDWAY).glob("*/")):
        if there(folder / MANIFEST):
            found.known.add(folder / MANIFEST)
            manifest = found.ask(partial(read_manifest, folder))
            remedy = "`cl-bench run` does not use it and trains what is missing again"
            found.compare(folder, manifest or {}, remedy)
            found.notes.append(f"{folder}: saved in training; `cl-bench run` goes on from it")


def _published(found: Findings, folder: Path) -> None:
    """A folder with a manifest: all of its files, whatever their size."""
    if not there(folder / MANIFEST):
        return
    found.known.add(folder / MANIFEST)
    manifest = found.ask(lambda: read_manifest(folder)) or {}
    apart = [name for name in manifest if not (folder / name).exists()]
    deltas = found.ask(lambda: read_delta(folder))
    if deltas is not None:
        found.known |= {folder / DELTA, *(delta_place(folder / name) for name in deltas["weights"])}
        found.compared += len(apart)
        manifest = {name: one for name, one in manifest.items() if name not in apart}
        if apart:
            from cl_bench.models.deltas import check_whole

            found.ask(lambda: check_whole(folder))
    found.compare(folder, manifest, train_again(folder))


def _scores(found: Findings, place: Path) -> None:
    """`scores.json` of a place with the files that belong to it."""
    file = place / "scores.json"
    found.known.add(file)
    if not there(file):
        if place.is_dir():
            found.notes.append(f"{place}: its scoring is not finished; it goes on where it stopped")
        return
    scores = found.ask(lambda: read_scores(place))
    recorded = dict((scores or {}).get(FILES, {}))
    found.known |= {place / name for name in recorded}
    for folder in ("predictions", "kl"):
        here = {name: one for name, one in recorded.items() if name.startswith(f"{folder}/")}
        if here and folder == "predictions" and not (place / folder).is_dir():
            found.notes.append(f"{place / folder}: deleted; nothing is compared by document")
        else:
            found.compare(place, here, f"restore it from a copy, or delete {file} and run again")
    if "trained.json" in recorded:
        found.compare(place, {"trained.json": recorded["trained.json"]}, train_again(place))


def _strangers(found: Findings, experiment: Path) -> None:
    """Files that no record names: of an unfinished scoring or training, or put there by others."""
    unfinished = {place for place in experiment.rglob("partial") if place.is_dir()}
    for file in _files(experiment):
        parents = {file.parent, *file.parents}
        if file in found.known or parents & unfinished or _in_work(file, experiment):
            continue
        found.notes.append(f"{file}: no record names it; cl-bench does not read it")


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _in_work(file: Path, experiment: Path) -> bool:
    """Whether a file lies in a place that is not finished, whose files have no record yet."""
    for folder in file.relative_to(experiment).parents:
        place = experiment / folder
        if is_stage(place) or folder.name == "base":
            return not (place / "scores.json").exists()
        if folder.parent.name == "evals" or in_context(place):
            return not (place / "scores.json").exists()
    return False
