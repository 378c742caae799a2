"""What an experiment is begun with, or taken up again: the base model's row, every `run.json`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cl_bench.evaluation.engines.opened import Subject
from cl_bench.experiment.scoring import Scoring, score_into
from cl_bench.experiment.sharing import held, place_of
from cl_bench.experiment.stage_training import seed_everything
from cl_bench.experiment.workplace import Workplace
from cl_bench.identity.bindings import (
    Contents,
    base_settings,
    of_base,
    recorded,
    run_settings,
    settings_checksum,
)
from cl_bench.identity.same import bound
from cl_bench.methods.spec import Experiment, RunSpec
from cl_bench.models.contents import model_contents
from cl_bench.models.load import load_model
from cl_bench.store.experiments import read_run, write_run
from cl_bench.store.folders import RunFolder, sha256_of, there
from cl_bench.store.partial import drop_partial
from cl_bench.store.provenance import provenance
from cl_bench.store.seals import read_scores


def score_base(
    work: Workplace, experiment: Experiment, folder: Path, model_path: str | Path, now: Contents
) -> Contents:
    """The base model's row (ORI): every stage task and General, once per experiment.

    Columns of stages that were appended since are added to it. Returns `now`, with the weights of
    a hub model that had to be fetched first.
    """
    config, place, suite = work.config, folder / "base", work.suite
    names = experiment.base_columns
    before = read_scores(place) if there(place / "scores.json") else None
    if before is not None and all(name in before["trace"] for name in names):
        drop_partial(place)
        return now
    settings = base_settings(experiment, folder)
    seed_everything(0)
    model, tokenizer = load_model(model_path, config.model.dtype, str(work.device))
    now = {**now, "model": model_contents(model_path)}
    work.reporter.scoring("base model")
    units = suite.units(names, config.eval.general.after != "never", config.train)
    basis = {"model": {**(now["model"] or settings["model"]), "dtype": config.model.dtype}}
    reference = suite.reference(place / "kl", of_base=True)
    subject = Subject(model, tokenizer, Path(model_path))
    scoring = Scoring(subject, units, basis, reference, work.processes)
    own = of_base(now, suite.columns, suite.general)
    about = {"settings": settings, "engine": str(suite.engine)}
    if before is not None:
        own = with_old(before, own)
        about["engine"] = _engines(before, str(suite.engine), names)

    def rest(_: object) -> dict[str, Any]:
        return recorded(about, own) if "model" in own else {**about, "data": own["data"]}

    score_into(place, scoring, suite, work.reporter, {"stage": 0}, rest, before)
    return now


def _engines(before: Mapping[str, Any], engine: str, names: list[str]) -> str:
    """The engine that answered; of columns that were added by another one both."""
    if before["engine"] == engine:
        return engine
    added = ", ".join(name for name in names if name not in before["trace"])
    return f"{before['engine']}, for {added} {engine}"


def with_old(record: Mapping[str, Any], now: Contents) -> Contents:
    """`now` beside what a record has already; of an older version only what that recorded."""
    data = {**record.get("data", {}), **now["data"]}
    if "inputs" not in record:
        return {"data": data}
    inputs = record["inputs"]
    return {**inputs, "tasks": {**inputs["tasks"], **now["tasks"]}, "data": data}


def adopt_runs(
    experiment: Experiment, folder: Path, now: Contents, say: Callable[[str], None]
) -> None:
    """Write the `run.json` of every chosen run that holds no results yet, with what is there now.

    Those that another process is at are left to it. One to which stages were appended gets them;
    `say` is given a line about it.
    """
    for run in experiment.chosen:
        place = place_of(folder, run)
        with held(place) as mine:
            if mine:
                _adopt(experiment, run, place, folder, now, say)


def _adopt(
    experiment: Experiment,
    run: RunSpec,
    place: RunFolder,
    folder: Path,
    now: Contents,
    say: Callable[[str], None],
) -> None:
    settings = run_settings(experiment, run, folder)
    if bound(place.path):
        if added := _extend(place.path / "run.json", settings, now):
            say(f"{run.label}, seed {run.seed}: appended: {', '.join(added)}")
        return
    about = {"label": run.label, "order": run.order, "keeps": run.keeps, **provenance()}
    about |= {"of": run.of} if run.of else {}
    record = {"sha256": sha256_of(settings), "config": settings, **about}
    _drop_others(place, run, settings_checksum(settings))
    write_run(place.path / "run.json", recorded(record, now))


def _drop_others(place: RunFolder, run: RunSpec, settings: str) -> None:
    """Stage folders of a start with other settings (their checksum) that finished none."""
    names = {stage.folder for stage in run.stages}
    file = place.path / "run.json"
    anew = there(file) and settings_checksum(read_run(file)["config"]) != settings
    for stage in place.stages():
        if anew or stage.path.name not in names:
            shutil.rmtree(stage.path)


def _extend(file: Path, settings: Mapping[str, Any], now: Contents) -> list[str]:
    """Add the stages that a run had not when it was begun, and what they are made of.

    Returns them as `stage 3 (trace_py150)`.
    """
    record = read_run(file)
    before = record["config"]["stages"]
    added = settings["stages"][len(before) :]
    if not added:
        return []
    config = {**record["config"], "stages": [*before, *added]}
    config |= {key: settings[key] for key in ("unscored", "code") if key in settings}
    whole = {**record, "sha256": sha256_of(config), "config": config}
    whole["appended"] = [
        *record.get("appended", []),
        {"from_stage": added[0]["index"], **provenance()},
    ]
    own = with_old(record, now)
    write_run(file, recorded(whole, own) if "model" in own else {**whole, "data": own["data"]})
    return [f"stage {stage['index']} ({' + '.join(stage['tasks'])})" for stage in added]
