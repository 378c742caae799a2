"""Folders with scored documents (`predictions/`), found by path or in short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.errors import UserError, nearest
from cl_bench.evaluation.probes.records import PROBES
from cl_bench.results.paired import entry_of
from cl_bench.scores.general import leaves
from cl_bench.store.experiments import EXPERIMENT, RUN, latest_experiment
from cl_bench.store.folders import RunFolder, read_records, there
from cl_bench.store.links import check_links
from cl_bench.store.seals import check_records, read_scores

Records = dict[tuple[str, int], dict[str, Any]]
"""Lines of `predictions/<leaf>.jsonl` by (leaf, doc_id)."""


@dataclass(frozen=True)
class Place:
    """A stage's folder, `base/` or an `evals/<id>/` folder."""

    path: Path

    def tasks(self) -> dict[str, list[str]]:
        """For each stage task and benchmark its leaves; leaves that no score names stand alone."""
        files = (self.path / "predictions").glob("*.jsonl")
        written = {file.stem for file in files if not file.name.endswith(PROBES)}
        named: dict[str, list[str]] = {}
        if there(self.path / "scores.json"):
            scores = read_scores(self.path)
            named = {task: [task] for task in scores["trace"]} | leaves(scores["general"])
        found = {task: names for task, names in named.items() if written.issuperset(names)}
        alone = written - {leaf for names in found.values() for leaf in names}
        return found | {leaf: [leaf] for leaf in sorted(alone)}

    def benchmarks(self) -> list[str]:
        """Those of General that `scores.json` has."""
        found = read_scores(self.path)["general"] if there(self.path / "scores.json") else {}
        return [name for name, entry in found.items() if isinstance(entry, Mapping)]

    @property
    def experiment(self) -> Path | None:
        """The experiment's folder that it belongs to."""
        return _owner(self.path)

    def without_scores(self) -> str | None:
        """Where only records of documents are left: what then cannot be known; else None."""
        if there(self.path / "scores.json"):
            return None
        return (
            f"{self.path / 'scores.json'}: not there (not scored to the end, or deleted): records "
            "of documents are compared as they are, unchecked, and each leaf task stands alone"
        )

    def entry(self, task: str) -> Mapping[str, Any]:
        """What `scores.json` has of a task, benchmark or member; empty if nothing."""
        file = self.path / "scores.json"
        return entry_of(read_scores(self.path), task) if there(file) else {}

    def records(self, names: list[str]) -> Records:
        """The documents of some leaves. Raises RunError when a file is not as it was written."""
        if there(self.path / "scores.json"):
            check_records(self.path, read_scores(self.path))
        return {
            (leaf, record["doc_id"]): record
            for leaf in names
            for record in read_records(self.path / "predictions" / f"{leaf}.jsonl")
        }


def find_places(first: str, second: str, results: Path) -> tuple[Place, Place]:
    """Two places; what one leaves out (the experiment's name) is taken from the other.

    A place is a path, or `NAME/method/seed-42/stage-3` or `NAME/base` under `results`. `stage-3`
    stands for its folder, `seed-42` can be left out where there is one seed, and the name of the
    experiment where the other side names one, or else means the experiment that was run last.
    Raises UserError naming what is there.
    """
    given = {text: _find(text, [Path(), results]) for text in (first, second)}
    known = [experiment for found in given.values() if found and (experiment := _owner(found))]
    faults = []
    for text, found in given.items():
        if found is None:
            home = known[0] if known else latest_experiment(results)
            given[text] = _find(text, [home])
            if given[text] is None:
                faults.append(_why_not(text, [home, results, Path()]))
    if faults:
        raise UserError(faults)
    places = [Place(path) for text in (first, second) if (path := given[text])]
    for place in places:  # links in them not followed yet
        above = place.path.absolute().parents
        check_links(next((p for p in above if (p / EXPERIMENT).is_file()), place.path))
    return places[0], places[1]


def find_run(text: str, results: Path) -> RunFolder:
    """A run by its path, or as `NAME/method`, `NAME/method/seed-42` under `results`.

    Raises UserError naming what is there.
    """
    for home in (Path(), results):
        path, rest = _walk(home, text)
        seeds = (
            [path] if there(path / RUN) else sorted(f.parent for f in path.glob(f"seed-*/{RUN}"))
        )
        if not rest and len(seeds) == 1:
            check_links(seeds[0])
            return RunFolder(seeds[0])
        if not rest and seeds:
            raise UserError(f"{text}: {len(seeds)} seeds: add one, {text}/{seeds[0].name}")
    path, rest = min((_walk(home, text) for home in (Path(), results)), key=lambda one: len(one[1]))
    known = [child.name for child in path.iterdir() if child.is_dir()] if path.is_dir() else []
    what = f"no '{rest[0]}' in {path}{nearest(rest[0], known)}" if rest else f"{path} is no run"
    raise UserError(f"{text}: {what}; a run is NAME/method, or NAME/method/seed-42")


def _find(text: str, homes: list[Path]) -> Path | None:
    for home in homes:
        path, rest = _walk(home, text)
        if not rest:
            # A row of the base model with examples lies right below its seed.
            found = [path, *path.glob("seed-*")]
            scored = [place for place in found if (place / "predictions").is_dir()]
            if len(scored) == 1:
                return scored[0]
    return None


def _walk(home: Path, text: str) -> tuple[Path, list[str]]:
    """As far as the parts of `text` lead, and the parts that are left."""
    path, parts = home, list(Path(text).parts)
    if Path(text).is_absolute():
        path, parts = Path(parts[0]), parts[1:]
    while parts:
        child = _child(path, parts[0])
        if child is None:
            seeds = list(path.glob("seed-*"))
            child = _child(seeds[0], parts[0]) if len(seeds) == 1 else None
        if child is None:
            break
        path, parts = child, parts[1:]
    return path, parts


def _child(folder: Path, name: str) -> Path | None:
    if (folder / name).is_dir():
        return folder / name
    longer = list(folder.glob(f"{name}-*")) if name.startswith("stage-") else []
    return longer[0] if len(longer) == 1 else None


def _owner(path: Path) -> Path | None:
    """The experiment's folder that a place belongs to."""
    return next((p for p in path.resolve().parents if (p / EXPERIMENT).is_file()), None)


def _score_again(path: Path) -> str:
    """The command that scores a stage's documents again, where there is one."""
    experiment = _owner(path)
    parts = path.resolve().relative_to(experiment.resolve()).parts if experiment else ()
    if experiment is None or len(parts) != 3:
        return ""
    method, seed, stage = parts
    return (
        f"; `cl-bench eval {experiment.resolve().name} --stage {stage.split('-')[1]} --method "
        f"{method} --seed {seed.removeprefix('seed-')}` scores them again, in {path}/evals/"
    )


def _why_not(text: str, homes: list[Path]) -> str:
    path, rest = min((_walk(home, text) for home in homes), key=lambda found: len(found[1]))
    if not rest:
        if (path / "scores.json").is_file():
            return f"{path}: predictions/ is not there any more{_score_again(path)}"
        inside = sorted(file.parent.relative_to(path) for file in path.rglob("predictions"))
        there = ", ".join(map(str, inside[:8])) or "none below it"
        return f"{text}: {path} has no predictions/ (there: {there})"
    known = [child.name for child in path.iterdir() if child.is_dir() and child.name[0] != "."]
    return f"{text}: no '{rest[0]}' in {path}{nearest(rest[0], known)}"
