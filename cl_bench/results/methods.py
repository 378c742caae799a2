"""An experiment's runs as the report sees them: all seeds of a method together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cl_bench.errors import RunError
from cl_bench.results.paired import entry_of, is_unmeasured
from cl_bench.results.same_documents import pair
from cl_bench.results.summary import summarise_run
from cl_bench.scores.matrix import Comparison, Documents, Setting, Summary, compare_seeds
from cl_bench.scores.sequence import Recorded, visits
from cl_bench.store.experiments import find_runs, read_run
from cl_bench.store.folders import RunFolder, stage_number, there
from cl_bench.store.seals import check_records, read_scores


@dataclass(frozen=True)
class MethodResult:
    """All seeds of one method."""

    label: str
    runs: Sequence[RunFolder]
    summaries: Sequence[Summary]
    sequence: Sequence[Sequence[str]]
    """The tasks of every stage."""
    visits: Mapping[str, Sequence[int]]
    """The stages that teach each task."""

    @property
    def stages(self) -> int:
        """How many there are, run or not."""
        return len(self.sequence)

    @property
    def setting(self) -> Setting:
        """What the sequence of its stages is."""
        return self.summaries[0].matrix.setting

    @property
    def complete(self) -> bool:
        """Whether every stage of every seed is scored."""
        return all(count == self.stages for count in self.done)

    @property
    def done(self) -> list[int]:
        """How many stages are scored, for each seed."""
        return [sum(stage.scored for stage in run.stages()) for run in self.runs]

    @property
    def failed(self) -> list[str]:
        """`stage 2`, for each seed whose training diverged; with the seed where there are more."""
        several = len(self.runs) > 1
        return [
            f"stage {stage_number(stage.path.name)}" + (f" of {run.path.name}" if several else "")
            for run in self.runs
            for stage in run.stages()
            if there(stage.failure_file)
        ]

    @property
    def seeds(self) -> list[int]:
        """Of each run."""
        return [int(run.path.name.removeprefix("seed-")) for run in self.runs]

    def only(self, runs: Sequence[RunFolder]) -> MethodResult:
        """The same method with some of its runs."""
        kept = [(r, s) for r, s in zip(self.runs, self.summaries, strict=True) if r in runs]
        return replace(self, runs=[r for r, _ in kept], summaries=[s for _, s in kept])

    def joined(self, other: MethodResult) -> MethodResult:
        """With the runs of another experiment, which has other seeds."""
        runs, summaries = [*self.runs, *other.runs], [*self.summaries, *other.summaries]
        return replace(self, runs=runs, summaries=summaries)

    def name(self, run: RunFolder) -> str:
        """The label, with the seed where there are several."""
        return f"{self.label} {run.path.name}" if len(self.runs) > 1 else self.label


def load_results(
    experiment: Path, faults: list[str] | None = None, every_file: bool = True
) -> list[MethodResult]:
    """Finished and unfinished runs, in the order of the config.

    Raises RunError where a file that tables are made of is not as it was written; with `faults`, a
    damaged run is named there and left out. `every_file`: whether that holds for the records of
    single documents of all stages; else who reads them checks them.
    """
    if every_file:
        check_records(experiment / "base", read_scores(experiment / "base"))
    grouped: dict[str, list[tuple[RunFolder, Summary]]] = {}
    stages = {}
    for run in find_runs(experiment, faults=faults):
        try:
            record = read_run(run.path / "run.json", whole=True)
            for stage in run.stages():
                if stage.scored and every_file:
                    check_records(stage.path, read_scores(stage.path))
            summary = summarise_run(experiment, run)
        except RunError as error:
            if faults is None:
                raise
            faults.append(str(error))
            continue
        grouped.setdefault(record["label"], []).append((run, summary))
        stages[record["label"]] = Recorded.all_of(record["config"])
    return [
        MethodResult(
            label,
            [run for run, _ in runs],
            [summary for _, summary in runs],
            [stage.tasks for stage in stages[label]],
            visits(stages[label]),
        )
        for label, runs in grouped.items()
    ]


def lacking(result: MethodResult, names: Iterable[str]) -> list[str]:
    """Which of these tasks and benchmarks are not measured after a last stage."""
    lasts = [read_scores(run.stages()[-1].path) for run in result.runs]
    return [name for name in names if any(is_unmeasured(entry_of(s, name)) for s in lasts)]


def compare_last(
    first: MethodResult,
    second: MethodResult,
    read: Callable[[Path], Documents],
    names: Mapping[str, Sequence[str]],
) -> tuple[Comparison | None, Mapping[str, int]]:
    """Probes of two methods after their last stages; `read` gives them in a `predictions` folder.
    `names` are the leaves of its tasks. Documents of a task weigh the same, as in a probe's mean.

    With it the documents of each task that are not the same everywhere and so were left out. None
    when the seeds or the tasks of the two differ, or nothing can be read or is the same; and for
    `single`, whose last stage has seen one task alone.
    """
    if len(first.runs) != len(second.runs) or "single" in (first.setting, second.setting):
        return None, {}
    runs = [*first.runs, *second.runs]
    paired = pair([run.stages()[-1].path / "predictions" for run in runs], read, names)
    if paired is None or not paired.sides[0]:
        return None, {} if paired is None else paired.left_out
    half = len(first.runs)
    return compare_seeds(paired.sides[:half], paired.sides[half:]), paired.left_out
