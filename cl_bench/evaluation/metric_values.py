"""From a task's scored documents to its metrics and its score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from cl_bench.errors import RunError, UserError
from cl_bench.evaluation.aggregates import (
    NO_NUMBER,
    Aggregate,
    aggregate,
    aggregation_name,
    aggregation_of,
    is_number,
    value_of,
)
from cl_bench.evaluation.headline import Headline
from cl_bench.scores.cells import Cell

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class MetricSummary:
    """Every metric by its name; with several filters, the filter's name behind a comma."""

    values: dict[str, float | None]
    """On its own scale; None where it could not be computed."""
    stderrs: dict[str, float | None] = field(default_factory=dict)
    """Of the metrics of all documents together: by bootstrap."""
    not_computed: dict[str, str] = field(default_factory=dict)
    """Why a value is None."""
    aggregates: dict[str, Aggregate] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        """What stands in `scores.json` beside `metrics`; keys without content are left out."""
        data = {"metrics_stderr": self.stderrs, "not_computed": self.not_computed}
        return {key: value for key, value in data.items() if value}


def summarise_metrics(task: Any, samples: Sequence[Sample], headline: str) -> MetricSummary:
    """Means over documents, and lm-eval's aggregation of the metrics that have another one.

    Metrics that are words are for the records only. `score` is left out where it is the headline
    beside others: the cell holds it already.
    """
    several = len({sample["filter"] for sample in samples}) > 1
    values: dict[str, list[Any]] = {}
    names: dict[str, str] = {}
    for sample in samples:
        for name in sample["metrics"]:
            key = f"{name},{sample['filter']}" if several else name
            names[key] = name
            values.setdefault(key, []).append(sample[name])
    wordless = {
        key: found
        for key, found in values.items()
        if not any(value is None or isinstance(value, str) for value in found)
    }
    if headline == "score" and any(names[key] != "score" for key in wordless):
        wordless = {key: found for key, found in wordless.items() if names[key] != "score"}
    summary = MetricSummary({})
    for key, found in wordless.items():
        _take(summary, task, names[key], key, found)
    return summary


def _take(summary: MetricSummary, task: Any, name: str, key: str, found: Sequence[Any]) -> None:
    function = aggregation_of(task, name)
    numbers = all(map(is_number, found))
    if aggregation_name(function) in ("mean", "bypass"):
        if numbers:
            value = sum(map(float, found)) / len(found)
            summary.values[key] = value if isfinite(value) else None
            if not isfinite(value):
                summary.not_computed[key] = f"{NO_NUMBER}{value}"
            return
        made = Aggregate(None, reason=f"lm-eval takes the mean of {type(found[0]).__name__}s")
    else:
        made = aggregate(function, found, str(task.task_name))
        summary.aggregates[key] = made
    summary.values[key] = made.value
    if made.value is None:
        summary.not_computed[key] = str(made.reason)
    else:
        summary.stderrs[key] = made.stderr


def score_of(
    task: Any, headline: Headline, kept: Sequence[Sample], summary: MetricSummary
) -> tuple[Cell, list[float | None], list[float]]:
    """The cell, what each document's record has as `score`, and a corpus metric's resamples.

    Raises UserError where a value is no score, RunError where there is none at all.
    """
    name = headline.metric
    for sample in kept:
        if name not in sample:
            raise RunError(f"{task.task_name}: document {sample['doc_id']} has no metric {name}")
        if not headline.corpus and (fault := headline.fault(sample[name])):
            raise UserError(f"{task.task_name}: document {sample['doc_id']}: {fault}")
    if not headline.corpus:
        scores = [float(sample[name]) / headline.scale for sample in kept]
        return Cell.from_documents(scores), list(scores), []
    if not kept:
        raise ValueError("a cell needs at least one document; without any it is None")
    made = of_all(headline, kept, summary)
    if made.value is None:
        raise RunError(f"{task.task_name}: {name} cannot be computed: {made.reason}")
    if fault := headline.fault(made.value):
        raise UserError(f"{task.task_name}: {fault}")
    resamples = [value / headline.scale for value in made.resamples]
    stderr = None if made.stderr is None else made.stderr / headline.scale
    cell = Cell(made.value / headline.scale, len(kept), stderr)
    return cell, [_own_part(sample[name]) for sample in kept], resamples


def of_all(headline: Headline, kept: Sequence[Sample], summary: MetricSummary) -> Aggregate:
    """The headline's number of all documents together; `kept` are of one filter."""
    name = headline.metric
    return summary.aggregates.get(f"{name},{kept[0]['filter']}") or summary.aggregates[name]


def document_score(headline: Headline, sample: Sample) -> float | None:
    """What the record of a sound document has as `score` where the task has none."""
    value = sample[headline.metric]
    return _own_part(value) if headline.corpus else float(value) / headline.scale


def _own_part(item: Any) -> float | None:
    """Of a corpus metric's (gold, answer) pair: 1 where they are equal, else 0. None for others."""
    if not isinstance(item, list | tuple) or len(item) != 2:
        return None
    gold, answer = (value.item() if hasattr(value, "item") else value for value in item)
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    found = answer in gold if isinstance(gold, list) else gold == answer
    return float(bool(found))


def constant_answer(
    task: Any, headline: Headline, kept: Sequence[Sample]
) -> tuple[dict[str, float] | None, float | None]:
    """Shares of the predicted labels, and the corpus metric of the best constant answer.

    For choices with the same labels in every document; 0 for Matthews' correlation.
    """
    if task.OUTPUT_TYPE != "multiple_choice":
        return None, None
    items = [sample[headline.metric] for sample in kept]
    choices = [list(task.doc_to_choice(sample["doc"])) for sample in kept[:1]]
    pairs = all(isinstance(item, tuple) and len(item) == 2 for item in items)
    if not pairs or any(list(task.doc_to_choice(s["doc"])) != choices[0] for s in kept):
        return None, None
    function = aggregation_of(task, headline.metric)
    constant = [
        value_of(function, [(gold, label) for gold, _ in items])[0]
        for label in range(len(choices[0]))
    ]
    best = max((value for value in constant if value is not None), default=None)
    predicted = Counter(int(answer) for _, answer in items)
    shares = {str(name): predicted[i] / len(items) for i, name in enumerate(choices[0])}
    return shares, None if best is None else best / headline.scale
