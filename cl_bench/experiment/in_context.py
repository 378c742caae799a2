"""Rows of the base model with worked examples: scored once each, beside the row without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cl_bench.evaluation.engines.opened import Subject
from cl_bench.evaluation.in_context import positions_of, worked_examples
from cl_bench.evaluation.suite import Suite
from cl_bench.evaluation.units import Unit
from cl_bench.experiment.base_rows import missing_columns
from cl_bench.experiment.begun import with_old
from cl_bench.experiment.scoring import Scoring, score_into
from cl_bench.experiment.stage_training import seed_everything
from cl_bench.experiment.workplace import Workplace
from cl_bench.identity.bindings import Contents, in_context_settings, of_base, recorded
from cl_bench.methods.spec import Experiment, InContextSpec
from cl_bench.models.contents import model_contents
from cl_bench.models.load import load_model
from cl_bench.store.folders import there
from cl_bench.store.partial import drop_partial
from cl_bench.store.seals import read_scores


def score_in_context(
    work: Workplace, experiment: Experiment, folder: Path, model_path: str | Path, now: Contents
) -> None:
    """Every chosen row that is not there yet, and of the others columns that were appended."""
    missing = []
    for row in experiment.chosen_in_context:
        place = folder / row.folder
        before = read_scores(place) if there(place / "scores.json") else None
        names = missing_columns(experiment, before)
        if names:
            missing.append((row, before, names))
        else:
            drop_partial(place)
    if not missing:
        return
    model, tokenizer = load_model(model_path, work.config.model.dtype, str(work.device))
    now = {**now, "model": model_contents(model_path)}
    subject = Subject(model, tokenizer, Path(model_path))
    for row, before, names in missing:
        seed_everything(0)
        work.reporter.scoring(f"{row.label}, seed {row.seed}")
        _score(work, experiment, row, folder, subject, names, before, now)


def _score(
    work: Workplace,
    experiment: Experiment,
    row: InContextSpec,
    folder: Path,
    subject: Subject,
    names: list[str],
    before: Mapping[str, Any] | None,
    now: Contents,
) -> None:
    suite = replace(work.suite, probes=None)
    settings = in_context_settings(experiment, row, folder)
    units = units_in_context(work, row, suite, subject, names)
    basis = {"model": {**(now["model"] or settings["model"]), "dtype": work.config.model.dtype}}
    own = of_base(now, suite.columns, ())
    own = own if before is None else with_old(before, own)
    about = {"stage": 0, "label": row.label, "order": row.order}
    about |= {"in_context": settings["in_context"]}
    rest = recorded({"settings": settings, "engine": str(suite.engine)}, own)
    scoring = Scoring(subject, units, basis, None, work.processes)
    place = folder / row.folder
    score_into(place, scoring, suite, work.reporter, about, lambda _: rest, before)


def units_in_context(
    work: Workplace, row: InContextSpec, suite: Suite, subject: Subject, names: list[str]
) -> list[Unit]:
    """The stage tasks with their examples in front."""
    positions = positions_of(suite.engine, subject.model.config, subject.tokenizer)
    return [
        replace(
            unit,
            worked=worked_examples(
                unit.tasks[unit.name],
                work.examples[unit.name, work.experiment.limit_of(unit.name), row.seed],
                unit.documents[unit.name],
                row.options,
                row.seed,
                subject.tokenizer,
                work.config.train,
                positions,
            ),
        )
        for unit in suite.units(names, False, work.config.train)
    ]
