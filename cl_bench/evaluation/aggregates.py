"""Metrics of all documents together: lm-eval's own aggregation, with a bootstrap standard error."""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from statistics import stdev
from typing import Any

Aggregation = Callable[[Sequence[Any]], Any]
MOST_RESAMPLES, FEWEST_RESAMPLES = 200, 20
DOCUMENTS_RESAMPLED = 100_000
"""Bounds the cost: 200 resamples of up to 500 documents, 50 of 2,000, never fewer than 20."""

NO_NUMBER = "it is "
"""How the reason begins where a value is there and is not finite."""


@dataclass(frozen=True)
class Aggregate:
    """A metric of all documents, on its own scale, or why there is none."""

    value: float | None
    resamples: list[float] = field(default_factory=list)
    """Its values over resampled documents; empty where one of them has none."""
    reason: str | None = None

    @property
    def stderr(self) -> float | None:
        """The standard deviation over the resamples."""
        return stdev(self.resamples) if len(self.resamples) > 1 else None


def aggregation_of(task: Any, metric: str) -> Aggregation:
    """How lm-eval makes one number of a metric's values; its mean where the task names nothing."""
    from lm_eval.api.metrics import mean

    known: Mapping[str, Any] = task.aggregation() if hasattr(task, "aggregation") else {}
    found: Aggregation = known.get(metric) or mean
    return found


def aggregation_name(function: Aggregation) -> str:
    """As YAMLs call it, or the name of a function of the task's own."""
    import lm_eval.api.metrics  # noqa: F401  (fills the registry)
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    names = {known: name for name, known in AGGREGATION_REGISTRY.items()}
    return str(names.get(function) or getattr(function, "__name__", type(function).__name__))


def per_document(function: Aggregation) -> bool:
    """Whether the number is the mean over documents, each of which has its own."""
    return aggregation_name(function) == "mean"


def is_number(value: Any) -> bool:
    """Whether a metric's value for a document can be averaged."""
    return isinstance(value, int | float) or (hasattr(value, "item") and value.ndim == 0)


def aggregate(function: Aggregation, items: Sequence[Any], name: str) -> Aggregate:
    """The number of all `items` and its resamples, drawn from `name` and their count alone.

    The same documents are in the k-th resample of every model, so that differences are paired.
    """
    value, reason = value_of(function, items)
    if value is None:
        return Aggregate(None, reason=reason)
    if len(items) < 2:
        return Aggregate(value)
    count = max(FEWEST_RESAMPLES, min(MOST_RESAMPLES, DOCUMENTS_RESAMPLED // len(items)))
    found: list[float] = []
    for number in range(count):
        draw = random.Random(f"{name}/{number}")
        again, _ = value_of(function, draw.choices(items, k=len(items)))
        if again is None:
            return Aggregate(value)
        found.append(again)
    return Aggregate(value, found)


def value_of(function: Aggregation, items: Sequence[Any]) -> tuple[float | None, str | None]:
    """A finite number, or None and why not; what libraries print meanwhile is kept back."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            value = float(function(items))
    except Exception as error:
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return (value, None) if isfinite(value) else (None, f"{NO_NUMBER}{value}")


@contextmanager
def aggregated_elsewhere(tasks: Mapping[str, Any]) -> Iterator[None]:
    """Until the block ends lm-eval aggregates nothing: one metric that fails would end it all."""
    own = {name: vars(task).get("aggregation") for name, task in tasks.items()}
    for task in tasks.values():
        task.aggregation = lambda: defaultdict(lambda: _nothing)
    try:
        yield
    finally:
        for name, task in tasks.items():
            del task.aggregation
            if own[name] is not None:
                task.aggregation = own[name]


def _nothing(items: Sequence[Any]) -> float:
    return 0.0
