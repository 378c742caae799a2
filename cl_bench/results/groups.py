"""Which experiments belong into one table: those of the same model, tasks, documents and harness.

Others are kept apart, and it is said why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError, UserError, nearest
from cl_bench.identity.bindings import of_record
from cl_bench.identity.differences import content_differences, stage_differences
from cl_bench.models.contents import same_model
from cl_bench.results.in_context import InContextRow, in_context_rows
from cl_bench.results.methods import MethodResult, load_results
from cl_bench.store.experiments import (
    EXPERIMENT,
    find_experiment,
    latest_experiment,
    read_experiment,
    read_run,
)
from cl_bench.store.folders import sha256_of, there
from cl_bench.store.links import links_out
from cl_bench.store.seals import read_scores

HOW = ("protocol", "harness", "harness_version", "task", "task_version", "split", "shots", "metric")
"""Of a benchmark's `measured` what must be equal before two scores are compared."""


@dataclass(frozen=True)
class Chosen:
    """An experiment that is to be reported, or some runs of it."""

    folder: Path
    method: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Opened:
    """An experiment as far as it could be read."""

    folder: Path
    record: Mapping[str, Any]
    """`experiment.json`."""
    base: Mapping[str, Any]
    results: Sequence[MethodResult]
    in_context: Sequence[InContextRow] = ()
    """Rows of the base model with worked examples."""

    @property
    def config(self) -> Mapping[str, Any]:
        """What was last run."""
        found: Mapping[str, Any] = self.record["config"]
        return found

    @property
    def name(self) -> str:
        """Of the experiment."""
        return str(self.config["name"])

    def runs(self) -> Iterator[dict[str, Any]]:
        """Every `run.json`."""
        for result in self.results:
            for run in result.runs:
                yield read_run(run.path / "run.json")


@dataclass
class Group:
    """Experiments whose numbers may stand in one table."""

    experiments: list[Opened]
    apart: list[str] = field(default_factory=list)
    """Why it is not in the first group."""

    @property
    def first(self) -> Opened:
        """Whose base model stands for all."""
        return self.experiments[0]

    def methods(self) -> list[tuple[str, MethodResult]]:
        """Labels and results. The experiment's name is added where two have one label."""
        found = [(e, result) for e in self.experiments for result in _merged(self, e)]
        labels = [result.label for _, result in found]
        return [
            (
                result.label if labels.count(result.label) == 1 else f"{result.label} ({e.name})",
                result,
            )
            for e, result in found
        ]


def choose(given: Sequence[str], results: Path) -> list[Chosen]:
    """Experiments by path or name; `NAME/method` and `NAME/method/seed-42` are some of their runs.

    A folder of experiments stands for all in it, nothing for the one that was run last. Raises
    UserError for what is not there, and where links in it lead out of it.
    """
    found: list[Chosen] = [] if given else [Chosen(latest_experiment(results))]
    faults: list[str] = []
    for text in given:
        try:
            found += _choose(text, results)
        except UserError as error:
            faults += error.faults
    folders = dict.fromkeys(one.folder for one in found)
    faults += [line for folder in folders for line in links_out(folder)]
    if faults:
        raise UserError(faults)
    return list(dict.fromkeys(found))


def _choose(text: str, results: Path) -> list[Chosen]:
    for root in (Path(text), results / text):
        if there(root / EXPERIMENT):
            return [Chosen(root)]
        inside = sorted(file.parent for file in root.glob(f"*/{EXPERIMENT}"))
        if inside:
            return [Chosen(folder) for folder in inside]
        for folder in root.parents:
            if there(folder / EXPERIMENT):
                return [_part(folder, root.relative_to(folder).parts, text)]
    if Path(text).is_dir():
        raise UserError(f"{text}: no experiment ({EXPERIMENT}) in it or in a folder below it")
    return [Chosen(find_experiment(text, results))]


def _part(folder: Path, parts: Sequence[str], text: str) -> Chosen:
    method, *rest = parts
    if not (folder / method).is_dir():
        known = [path.parent.name for path in folder.glob("*/seed-*")]
        raise UserError(f"{text}: no '{method}' in {folder}{nearest(method, known)}")
    seed = rest[0].removeprefix("seed-") if rest else ""
    if rest and not (seed.isdecimal() and (folder / method / rest[0]).is_dir()):
        known = [path.name for path in (folder / method).glob("seed-*")]
        raise UserError(f"{text}: no '{rest[0]}' in {folder / method}{nearest(rest[0], known)}")
    return Chosen(folder, method, int(seed) if rest else None)


def open_all(chosen: Sequence[Chosen], faults: list[str], every_file: bool) -> list[Opened]:
    """What can be read of them; what cannot is named in `faults`.

    `every_file`: check the records of all stages, not only those that a first screen is made of.
    """
    folders = dict.fromkeys(each.folder for each in chosen)
    found = []
    for folder in folders:
        parts = [(e.method, e.seed) for e in chosen if e.folder == folder]
        try:
            record = read_experiment(folder, whole=True)
            base = read_scores(folder / "base")
            results = load_results(folder, faults, every_file)
            shots = in_context_rows(folder)
        except RunError as error:
            faults.append(str(error))
            continue
        if (None, None) not in parts:
            shots = [row for row in shots if (row.places[0].parent.name, None) in parts]
            results = [kept for result in results if (kept := _narrowed(result, parts))]
        found.append(Opened(folder, record, base, results, shots))
    return found


def _narrowed(
    result: MethodResult, parts: Sequence[tuple[str | None, int | None]]
) -> MethodResult | None:
    runs = [
        run
        for run in result.runs
        if any(
            run.path.parent.name == method and seed in (None, int(run.path.name.split("-")[1]))
            for method, seed in parts
        )
    ]
    return result.only(runs) if runs else None


def group(opened: Sequence[Opened]) -> list[Group]:
    """In the order given; each experiment in the first group that it differs from in nothing."""
    groups: list[Group] = []
    for experiment in opened:
        differences = [list(_differences(known.first, experiment)) for known in groups]
        for known, why in zip(groups, differences, strict=True):
            if not why:
                known.experiments.append(experiment)
                break
        else:
            groups.append(Group([experiment], differences[0] if differences else []))
    return groups


def _differences(first: Opened, second: Opened) -> Iterator[str]:
    """Why the numbers of two experiments cannot stand in one table."""
    ours, theirs = (_contents(each) for each in (first, second))
    names = [each.config["model"] for each in (first, second)]
    paths = [Path(each["path"]).name for each in names]
    same = same_model(ours.get("model", {}), theirs.get("model", {}))
    if paths[0] != paths[1] and same is not True:
        yield f"another model ({paths[1]})"
        ours, theirs = ({**each, "model": {}, "tokenizer": {}} for each in (ours, theirs))
    yield from content_differences(ours, theirs)
    if names[0].get("dtype") != names[1].get("dtype"):
        yield f"model.dtype: {names[0].get('dtype')} and {names[1].get('dtype')}"
    stages = [[[stage["task"]] for stage in each.config["stages"]] for each in (first, second)]
    if stages[0] != stages[1]:
        yield (stage_differences(*stages) or ["stages: more of them"])[0]
    yield from _asked_otherwise(first.base, second.base)


def _contents(experiment: Opened) -> dict[str, Any]:
    """What base and runs record; the rows of all of them together."""
    found = dict(of_record(experiment.base))
    rows: dict[str, Any] = {leaf: dict(splits) for leaf, splits in found.get("data", {}).items()}
    for run in experiment.runs():
        record = of_record(run)
        for leaf, splits in record.get("data", {}).items():
            rows.setdefault(leaf, {}).update(splits)
        for key in ("model", "tokenizer"):
            if key in record:
                found.setdefault(key, record[key])
        found["tasks"] = {**record.get("tasks", {}), **found.get("tasks", {})}
    return {**found, "data": rows}


def _asked_otherwise(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """Benchmarks and tasks that the two base models were not scored alike on."""
    for part, what in (("general", "General"), ("trace", "stage tasks")):
        ours, theirs = (
            {name: entry for name, entry in each[part].items() if name != "mean"}
            for each in (first, second)
        )
        if set(ours) != set(theirs):
            odd = ", ".join(sorted(set(ours) ^ set(theirs)))
            yield f"{what}: {odd} in one of them alone"
        for name in (name for name in ours if name in theirs):
            a, b = ours[name], theirs[name]
            if a.get("n") != b.get("n"):
                yield f"{name}: {a.get('n')} and {b.get('n')} documents"
            how, why = a.get("measured", {}), b.get("measured", {})
            for key in HOW:
                if how and why and how.get(key) != why.get(key):
                    yield f"{name}: {key.replace('_', ' ')} {how.get(key)} and {why.get(key)}"
    if first["engine"] != second["engine"]:
        yield f"engine {first['engine']} and {second['engine']}"


def _merged(whole: Group, experiment: Opened) -> list[MethodResult]:
    """An experiment's methods, with the seeds that other experiments have of the same settings.

    Those are then left out of the other's.
    """
    found = []
    for result in experiment.results:
        same = [
            (e, other)
            for e in whole.experiments
            for other in e.results
            if other is result or (other.label == result.label and _mergeable(result, other))
        ]
        if same[0][1] is not result:
            continue  # with the first that has it
        for _, other in same[1:]:
            result = result.joined(other)
        found.append(result)
    return found


def _mergeable(first: MethodResult, second: MethodResult) -> bool:
    seeds = {run.path.name for run in first.runs} & {run.path.name for run in second.runs}
    return not seeds and _settings(first) == _settings(second)


def _settings(result: MethodResult) -> str:
    config = read_run(result.runs[0].path / "run.json")["config"]
    return sha256_of({k: v for k, v in config.items() if k not in ("experiment", "seed", "label")})
