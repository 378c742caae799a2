"""What figures are made of: the methods of one table of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean, stdev
from typing import Any, NamedTuple, TypeVar

from cl_bench.errors import RunError
from cl_bench.report.figures.style import MOST
from cl_bench.results.groups import Group
from cl_bench.results.standings import Standing, Standings
from cl_bench.scores.uncertainty import t_quantile
from cl_bench.store.folders import RunFolder

T = TypeVar("T")


class Estimate(NamedTuple):
    """A number in percent or points, and half of its bar."""

    value: float
    error: float


@dataclass(frozen=True)
class Source:
    """Experiments whose numbers stand in one table, and what was found about their methods."""

    group: Group
    found: Standings
    first: Sequence[str]
    """Labels, those first that must stay where there is no room for all."""
    faults: list[str] = field(default_factory=list)
    """Files that could not be read: what they hold is left out of the figure."""

    def shown(self, most: int = MOST) -> list[Standing]:
        """As many methods as a figure can tell apart, in the order of the config."""
        labels = [label for label in self.first if label in self._labels][:most]
        return [method for method in self.found.methods if method.label in labels]

    @property
    def _labels(self) -> set[str]:
        return {method.label for method in self.found.methods}

    def left_out(self, most: int = MOST) -> str:
        """A sentence about the others; nothing where all are shown."""
        count = len(self.found.methods)
        return f" {most} of {count} methods; the others are in the tables." if count > most else ""

    def first_runs(self, most: int = MOST) -> Iterator[tuple[str, RunFolder]]:
        """The first seed of each of them, by label."""
        for method in self.shown(most):
            yield method.label, method.result.runs[0]

    def read(self, read: Callable[[], T]) -> T | None:
        """What it gives; None where a file is damaged, which is named."""
        try:
            return read()
        except RunError as error:
            self.faults.append(str(error))
            return None


def percent_of(measures: Sequence[Mapping[str, Any]], interval: bool = False) -> Estimate | None:
    """`value` (0-1) of every seed in percent; None where one of them is not measured.

    The bar is what tables have behind ±: a standard deviation over seeds, of one seed a standard
    error over documents. `interval`: half of a 95 % interval instead, of the mean over seeds by
    Student's t, of one seed over documents.
    """
    values = [measure["value"] for measure in measures]
    if not values or any(value is None for value in values):
        return None
    if len(values) > 1:
        error = stdev(values)
        if interval:
            error *= t_quantile(len(values) - 1) / sqrt(len(values))
    else:
        error = measures[0].get("stderr") or 0.0
        error *= t_quantile(float("inf")) if interval else 1
    return Estimate(100 * fmean(values), 100 * error)
