"""`summary.json`: all numbers of a run, from the `scores.json` of its stages and of the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_bench.results.paired import entry_of, is_unmeasured, paired_values
from cl_bench.scores.matrix import Cell, Summary, summarise
from cl_bench.scores.sequence import Recorded, setting_of, visits
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import RunFolder, read_records, stage_number, there, write_json
from cl_bench.store.seals import read_scores


def write_summary(experiment: Path, run: RunFolder) -> None:
    """Write the run's `summary.json` from the stages that are scored so far."""
    write_json(run.path / "summary.json", summarise_run(experiment, run).to_json())


def summarise_run(experiment: Path, run: RunFolder) -> Summary:
    """OP, BWT, forgetting and General of the scored stages of a run."""
    config = read_run(run.path / "run.json", whole=True)["config"]
    stages, unscored = Recorded.all_of(config), config.get("unscored", [])
    base = read_scores(experiment / "base")
    scored = scored_stages(run)
    numbers = range(1, max(scored, default=0) + 1)
    rows = [cells(scored[i]["trace"]) if i in scored else {} for i in numbers]
    taught = {task: own for task, own in visits(stages).items() if task not in unscored}
    return summarise(
        rows,
        list(taught),
        cells(base["trace"]),
        [cells(scored[i]["general"]) if i in scored else None for i in numbers],
        cells(base["general"]),
        setting=setting_of(stages),
        learned={task: own[0] for task, own in taught.items()},
        stages=len(stages),
        latest={task: own[-1] for task, own in taught.items() if len(own) > 1},
    )


def scored_stages(run: RunFolder) -> dict[int, dict[str, Any]]:
    """The `scores.json` of every stage that has one, by its number."""
    return {stage_number(s.path.name): read_scores(s.path) for s in run.stages() if s.scored}


def base_summary(experiment: Path, tasks: Sequence[str], sequence: Sequence[str]) -> Summary:
    """The base model's numbers (the row ORI), its cells weighted as those of the sequence."""
    return untrained_summary(experiment / "base", tasks, sequence)


def untrained_summary(place: Path, tasks: Sequence[str], sequence: Sequence[str]) -> Summary:
    """The same of any place that holds the base model's scores, with or without examples."""
    base = read_scores(place)
    first = {task: sequence.index(task) + 1 for task in tasks if task in sequence}
    return summarise(
        [],
        tasks,
        cells(base["trace"]),
        [],
        cells(base["general"]),
        setting="base",
        learned=first,
        stages=len(sequence),
    )


def cells(entries: Mapping[str, Any]) -> dict[str, Cell | None]:
    """Cells of a `trace` or `general` part of `scores.json` (the General mean is no cell)."""
    return {
        name: None if entry["score"] is None else Cell.from_json(entry)
        for name, entry in entries.items()
        if name != "mean"
    }


def documents(predictions: Path, names: Mapping[str, list[str]]) -> dict[str, list[Any]]:
    """Values for paired comparisons: benchmark -> [(document or resample, score)].

    `names` gives the leaf tasks of each benchmark; benchmarks without predictions are left out.
    Nothing at all where one of them is not measured: their mean is not, then.
    """
    file = predictions.parent / "scores.json"
    scores = read_scores(file.parent) if there(file) else {}
    found: dict[str, list[Any]] = {}
    if any(is_unmeasured(entry_of(scores, name)) for name in names):
        return found
    for name, leaves in names.items():
        files = [predictions / f"{leaf}.jsonl" for leaf in leaves]
        if all(there(file) for file in files):
            records = {file.stem: read_records(file) for file in files}
            found[name] = paired_values(entry_of(scores, name), records)
    return found
