"""Score a model into a place: `base/`, a stage's folder, or one of `evals/` below it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError
from cl_bench.evaluation.crew import Crew
from cl_bench.evaluation.engines.opened import Subject
from cl_bench.evaluation.probes.records import joined
from cl_bench.evaluation.probes.tasks import Reference
from cl_bench.evaluation.suite import Suite
from cl_bench.evaluation.units import Unit
from cl_bench.progress import Reporter
from cl_bench.scores.matrix import general_mean
from cl_bench.store.folders import there
from cl_bench.store.partial import finish_scores
from cl_bench.store.seals import FILES, SCORE_AGAIN, check_distributions, file_fault

Scores = Mapping[str, Any]


@dataclass(frozen=True)
class Scoring:
    """What is scored, and what identifies the model (a scoring that was interrupted goes on)."""

    subject: Subject
    units: Sequence[Unit]
    basis: Mapping[str, Any]
    reference: Reference | None
    crew: Crew | None = None
    """The processes that answer, of which this is the first."""


def score_into(
    place: Path,
    scoring: Scoring,
    suite: Suite,
    reporter: Reporter,
    about: Scores,
    rest: Callable[[Scores], Scores],
    before: Scores | None = None,
) -> None:
    """Write `scores.json`, last: `about`, the scores, then what `rest` makes of them.

    `before`: a finished scoring of the same model in this place, whose entries stay as they are;
    only what it lacks is scored.
    """
    units = scoring.units
    if before is not None:
        _check_kept(place, before)
        units = [unit for unit in units if unit.name not in before[unit.part]]
    how = (scoring.reference, scoring.crew)
    found = suite.score(scoring.subject, units, place, scoring.basis, reporter, *how)
    if before is not None:
        parts = {part: {**before[part], **found[part]} for part in ("trace", "general")}
        found = {**parts, "probes": joined(before.get("probes", {}), found["probes"])}
        found["general"].pop("mean", None)
    general = {**found["general"], "mean": general_mean(found["general"])}
    scores = {**about, "trace": found["trace"], "general": general, "probes": found["probes"]}
    finish_scores(place, {**scores, **rest(scores)})


def _check_kept(place: Path, before: Scores) -> None:
    """Raise RunError where a file of the earlier scoring is not as it was: it is sealed again.

    Records of single documents may have been deleted, to save room.
    """
    check_distributions(place)
    for name, recorded in before.get(FILES, {}).items():
        if there(place / name) and (fault := file_fault(place / name, recorded)):
            raise RunError(f"{place / name}: {fault}; {SCORE_AGAIN}")
