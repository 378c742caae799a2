"""What a reader must know of single runs: failed, trained again, incomplete, not measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_bench.evaluation.probes.records import unmeasured_probes
from cl_bench.experiment.pruned import RETRAINED
from cl_bench.experiment.space import deletions
from cl_bench.experiment.stage_files import read_failure
from cl_bench.report.cells import short
from cl_bench.report.document import Block, Bullets, Heading
from cl_bench.results.methods import MethodResult
from cl_bench.store.experiments import lost_runs, read_run
from cl_bench.store.folders import RunFolder, StageFolder, stage_number, there
from cl_bench.store.seals import read_scores, read_sealed

Entry = Mapping[str, Any]


def states_section(
    experiment: Path, base: Entry, results: Sequence[MethodResult], sequence: Sequence[str]
) -> Iterator[Block]:
    """A line for each thing that the tables do not show; nothing where there is none."""
    lines = [*states(experiment, base, results, sequence), *_deleted(results)]
    if lines:
        yield Heading("What the tables do not show")
        yield Bullets(lines)


def states(
    experiment: Path, base: Entry, results: Sequence[MethodResult], sequence: Sequence[str]
) -> list[str]:
    """What the tables do not show. `sequence`: the task of every stage of the config."""
    lines = [*_orphans(experiment), *_of_scores("base model", base)]
    for result in results:
        lines += _shorter(result, sequence)
        for run in result.runs:
            name = f"{result.label}, {run.path.name.replace('-', ' ')}"
            lines += [*_of_run(name, run, result.stages), *_appended(name, run, base)]
    return lines


def _deleted(results: Sequence[MethodResult]) -> Iterator[str]:
    """Weights that `keep:` deleted: as asked for, so that only full reports say it."""
    for result in results:
        for run in result.runs:
            name = f"{result.label}, {run.path.name.replace('-', ' ')}"
            yield from (f"{name}, {line}." for line in deletions(run.stages()))


def _orphans(experiment: Path) -> Iterator[str]:
    """Runs that no table has, since what binds them to their settings is gone."""
    for folder in lost_runs(experiment):
        yield f"{folder.relative_to(experiment)}: no run.json, so this run is in no table."


def _of_run(name: str, run: RunFolder, stages: int) -> Iterator[str]:
    found = {stage_number(stage.path.name): stage for stage in run.stages()}
    last = max((number for number, stage in found.items() if stage.scored), default=0)
    for number in range(1, stages + 1):
        stage = found.get(number)
        where = f"{name}, stage {number}"
        if stage is not None and there(stage.failure_file):
            yield f"{where}: {diverged(stage)}."
        elif stage is None or not stage.scored:
            if stage is not None or number < last:
                what = stage.scores_file.name if stage is not None else "its folder"
                yield f"{where}: {what} is not there, so its cells are not measured."
        else:
            if there(stage.path / RETRAINED):
                copy = "restore it from a copy"
                remade = read_sealed(stage.path / RETRAINED, copy, {"what": str})
                yield f"{where}: {remade['what']}."
            yield from _of_scores(where, read_scores(stage.path))


def _shorter(result: MethodResult, sequence: Sequence[str]) -> Iterator[str]:
    """That a method's runs are older than the last stages, and compare with no others."""
    own = [task for tasks in result.sequence for task in tasks]
    full = list(dict.fromkeys(sequence)) if result.setting == "joint" else list(sequence)
    if len(own) < len(full) and full[: len(own)] == own:
        yield (
            f"{result.label}: has the first {len(own)} of {len(full)} tasks of the sequence; the "
            "others were appended later, and its numbers are not over the same as others'."
        )


def _appended(name: str, run: RunFolder, base: Entry) -> Iterator[str]:
    """Columns that rows with all of them lack, since their stages came later."""
    trace = read_run(run.path / "run.json")["config"]["eval"]["trace"]
    if trace["cells"] != "all" or trace["after"] == "never":
        return
    for stage in run.stages():
        if not stage.scored or not (found := read_scores(stage.path)["trace"]):
            continue
        if missing := [short(task) for task in base["trace"] if task not in found]:
            where = f"{name}, stage {stage_number(stage.path.name)}"
            yield f"{where}: {', '.join(missing)} not scored: appended later."


def diverged(stage: StageFolder) -> str:
    """`diverged at update 3 (loss not finite, ...)` of a stage with a `failed.json`."""
    return str(read_failure(stage)["what"])


def _of_scores(where: str, scores: Entry) -> Iterator[str]:
    for task, entry in {**scores["trace"], **scores["general"]}.items():
        if isinstance(entry, Mapping) and "not_measured" in entry:
            yield f"{where}, {short(task)}: not measured: {entry['not_measured']}."
    for key, task, reason in unmeasured_probes(scores.get("probes", {})):
        name = "KL to base" if task is None else f"{key} of {short(task)}"
        yield f"{where}, probe {name}: not measured: {reason}."
    for key, text in scores.get("notes", {}).items():
        if key == "dead":
            yield f"{where}: {text}."
        elif key == "out_of_memory" and isinstance(text, Mapping):
            updates = ", ".join(map(str, text["updates"]))
            yield (
                f"{where}: memory did not suffice in update {updates}: from there on each "
                f"micro-batch was cut into {text['pieces']}; batch_size is as asked."
            )
        elif key == "trained_with" and isinstance(text, Mapping):
            given = ", ".join(f"{name} {value}" for name, value in text.items())
            yield f"{where}: trained with {given}, other than the run was begun with."
