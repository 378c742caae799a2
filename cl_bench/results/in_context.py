"""Rows of the base model with worked examples, as they are on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cl_bench.results.summary import untrained_summary
from cl_bench.scores.matrix import Summary
from cl_bench.store.experiments import in_context
from cl_bench.store.folders import there
from cl_bench.store.seals import check_records, read_scores


@dataclass(frozen=True)
class InContextRow:
    """All seeds of one row."""

    label: str
    places: tuple[Path, ...]

    def summaries(self, tasks: Sequence[str], sequence: Sequence[str]) -> list[Summary]:
        """The numbers of each seed; General is not asked with the stage tasks' examples."""
        return [untrained_summary(place, tasks, sequence) for place in self.places]


def in_context_places(experiment: Path) -> list[Path]:
    """Every folder that holds such a row, finished."""
    places = sorted(experiment.glob("*/seed-*"))
    return [place for place in places if in_context(place) and there(place / "scores.json")]


def in_context_rows(experiment: Path) -> list[InContextRow]:
    """In the order of the config. Raises RunError where a file is not as it was written."""
    grouped: dict[tuple[int, str], list[tuple[int, Path]]] = {}
    for place in in_context_places(experiment):
        scores = read_scores(place)
        check_records(place, scores)
        key = (int(scores["order"]), str(scores["label"]))
        grouped.setdefault(key, []).append((int(scores["settings"]["seed"]), place))
    return [
        InContextRow(label, tuple(place for _, place in sorted(places)))
        for (_, label), places in sorted(grouped.items())
    ]
