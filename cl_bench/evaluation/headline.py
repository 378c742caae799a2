"""Which of a task's metrics is its score, decided before anything is scored.

A score is 0 to 1, or to a declared scale, and higher is better. Most are a number per document; a
number of all documents together (corpus metric) can be one too. `metadata` of the YAML may say
`headline`, `filter` and `scale`; see docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, isnan
from typing import Any

from cl_bench.errors import UserError, nearest
from cl_bench.evaluation.aggregates import (
    Aggregation,
    aggregation_name,
    aggregation_of,
    is_number,
    per_document,
    value_of,
)
from cl_bench.evaluation.trial_answers import Trial, try_metrics

CORPUS_SCORES: Mapping[str, tuple[float, float]] = {
    "matthews_corrcoef": (-1.0, 1.0),
    "f1": (0.0, 1.0),
    "nanmean": (0.0, 1.0),
    "bleu": (0.0, 100.0),
    "chrf": (0.0, 100.0),
    "chrf++": (0.0, 100.0),
}
"""Lowest and highest value of lm-eval's aggregations that are scores; the highest is the scale."""
LOWER_IS_BETTER = ("perplexity", "weighted_perplexity", "bits_per_byte", "brier_score", "ter")
"""lm-eval's aggregations that never are, whatever a YAML says."""
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Headline:
    """The metric that a task's cells hold."""

    metric: str
    filter: str | None = None
    """None: the task's first."""
    scale: float = 1.0
    """What a perfect answer gets: the score is the metric's value divided by it."""
    low: float = 0.0
    corpus: bool = False
    """Whether it is a number of all documents together."""
    note: str | None = None
    """What to tell the user where the choice is not the first listed metric as it stands."""

    def how(self, task: Any) -> dict[str, Any]:
        """What `scores.json` says of the cell: `aggregation`, and `scale` unless it is 1."""
        data: dict[str, Any] = {"aggregation": aggregation_name(aggregation_of(task, self.metric))}
        return data if self.scale == 1 else {**data, "scale": self.scale}

    def fault(self, value: Any) -> str | None:
        """Why a value of the metric is no score; None if it is one (or NaN: not measured)."""
        if not is_number(value):
            return f"{self.metric} is no number ({type(value).__name__})"
        number = float(value)
        if isnan(number) or self.low - TOLERANCE <= number / self.scale <= 1 + TOLERANCE:
            return None
        return (
            f"{self.metric} is {number:g}, not from {self.low * self.scale:g} to {self.scale:g} "
            "(`metadata: {scale: 100}` declares another highest value)"
        )


@dataclass(frozen=True)
class Metric:
    """What is known of a task's metric before it is scored."""

    task: Any = field(repr=False)
    name: str
    trial: Trial = field(repr=False)
    filter: str | None = None
    declared: float | None = None
    """`metadata: {scale: ...}`."""

    @cached_property
    def function(self) -> Aggregation:
        """lm-eval's aggregation."""
        return aggregation_of(self.task, self.name)

    @property
    def aggregation(self) -> str:
        """Its name."""
        return aggregation_name(self.function)

    @property
    def known(self) -> bool:
        """Whether its range is: it may be the score without being named."""
        return not self.headline.corpus or self.aggregation in CORPUS_SCORES

    @cached_property
    def headline(self) -> Headline:
        """The metric as the task's score, whether or not it can be one."""
        corpus = not per_document(self.function)
        low, scale = CORPUS_SCORES.get(self.aggregation, (-1.0 if corpus else 0.0, 1.0))
        low, scale = low / scale, self.declared or scale
        return Headline(self.name, self.filter, scale, low, corpus)

    @cached_property
    def not_computable(self) -> str | None:
        """Why it can have no value at all; None where the trial shows nothing."""
        values = self.trial.gold.get(self.name, [])
        if not values or self.aggregation == "bypass" or any(isinstance(v, str) for v in values):
            return None
        if not self.headline.corpus:
            odd = next((value for value in values if not is_number(value)), None)
            what = f"its values are no numbers but {type(odd).__name__}s, of which lm-eval takes "
            return None if odd is None else f"{what}the mean"
        labels = _labels(self.task, values)
        if self.aggregation == "f1" and labels > 2:
            return (
                f"lm-eval's f1 is for two labels, and the task has {labels} (an `aggregation: "
                "!function` can do it)"
            )
        return value_of(self.function, values)[1]

    @cached_property
    def unfit(self) -> str | None:
        """Why it cannot be the task's score; None if it can."""
        better: Mapping[str, Any] = (
            self.task.higher_is_better() if hasattr(self.task, "higher_is_better") else {}
        )
        if better.get(self.name) is False or self.aggregation in LOWER_IS_BETTER:
            return "lower is better"
        values = self.trial.values(self.name)
        if self.aggregation == "bypass" or any(isinstance(value, str) for value in values):
            return "it is no number"
        if self.not_computable:
            return self.not_computable
        if self.headline.corpus:
            gold = self.trial.gold.get(self.name)
            return self.headline.fault(value_of(self.function, gold)[0]) if gold else None
        faults = (fault for value in values if (fault := self.headline.fault(value)))
        return next(faults, None) or self._which_way(better.get(self.name))

    def _which_way(self, declared: Any) -> str | None:
        """Where no one says which way is better: that wrong answers have more than gold ones."""
        gold, other = (side.get(self.name, []) for side in (self.trial.gold, self.trial.other))
        if declared is not None or not gold or not other:
            return None
        if sum(map(float, gold)) / len(gold) >= sum(map(float, other)) / len(other):
            return None
        return "wrong answers have more than gold ones, and no `higher_is_better` says otherwise"


def task_metrics(task: Any, names: Iterable[str] = ()) -> list[Metric]:
    """A task's metrics in the order of its YAML, then those that only its results (`names`) have.

    Raises UserError when `metadata: {filter, scale}` cannot be followed.
    """
    metadata = task.config.metadata or {}
    wanted, scale = metadata.get("filter"), metadata.get("scale")
    filters = [steps.name for steps in getattr(task, "_filters", [])]
    if wanted is not None and filters and wanted not in filters:
        where = f"{task.task_name}: metadata: filter: {wanted}: no such filter"
        raise UserError(f"{where}{nearest(str(wanted), filters)}")
    bad = isinstance(scale, bool) or not isinstance(scale, int | float) or not isfinite(scale)
    if scale is not None and (bad or scale <= 0):
        raise UserError(f"{task.task_name}: metadata: scale: {scale!r} is no positive number")
    trial = try_metrics(task, wanted)
    listed = list(getattr(task, "_metric_fn_list", {}))
    given = list(dict.fromkeys([*trial.gold, *trial.other, *names]))
    order = [name for name in listed if name in given or not given]
    order += [name for name in given if name not in order]
    declared = None if scale is None else float(scale)
    return [Metric(task, name, trial, wanted, declared) for name in order]


def headline_of(task: Any, names: Iterable[str] = ()) -> Headline:
    """What `metadata: {headline: ...}` says, else `score`, else the first metric that can be it.

    A metric per document comes before one of all documents, of which only those are taken unasked
    whose range is known (`CORPUS_SCORES`). `names` are the metrics of scored documents, if any.
    Raises UserError, naming the metrics that would do, when the task has no score.
    """
    metrics = {metric.name: metric for metric in task_metrics(task, names)}
    named = (task.config.metadata or {}).get("headline")
    if named is not None:
        return _named(task, str(named), metrics)
    fit = [metric for metric in metrics.values() if metric.unfit is None and metric.known]
    chosen = next((metric for metric in fit if metric.name == "score"), None)
    chosen = chosen or next((metric for metric in fit if not metric.headline.corpus), None)
    chosen = chosen or next(iter(fit), None)
    if chosen is None:
        raise UserError(_no_score(task, metrics))
    return _with_note(chosen, list(metrics.values()))


def _named(task: Any, name: str, metrics: Mapping[str, Metric]) -> Headline:
    where = f"{task.task_name}: metadata: headline: {name}"
    if name not in metrics:
        raise UserError(f"{where}: the task has no such metric{_would_do(metrics)}")
    metric = metrics[name]
    if metric.unfit:
        raise UserError(f"{where}: it cannot be the score: {metric.unfit}{_would_do(metrics)}")
    return metric.headline


def _would_do(metrics: Mapping[str, Metric]) -> str:
    fit = [metric.name for metric in metrics.values() if metric.unfit is None]
    return f"; these would do: {', '.join(fit)}" if fit else "; it has no other that would do"


def _no_score(task: Any, metrics: Mapping[str, Metric]) -> str:
    why = "; ".join(
        f"{metric.name}: {metric.unfit or 'a number of all documents whose range is not known'}"
        for metric in metrics.values()
    )
    fit = [metric.name for metric in metrics.values() if metric.unfit is None]
    remedy = (
        f"say `metadata: {{headline: {fit[0]}, scale: 1}}` in its YAML, where scale is its highest "
        "value; lm-eval's own YAML can be `include`d in one of task_paths"
        if fit
        else "a score is 0 to 1 (or to `metadata: {scale: ...}`) and higher is better: add such a "
        "metric to its YAML, or do not score it (leave it out of eval.general.tasks; for a stage "
        "`score: false`)"
    )
    return f"{task.task_name}: none of its metrics can be its score ({why}); {remedy}"


def _with_note(chosen: Metric, metrics: Sequence[Metric]) -> Headline:
    headline, before = chosen.headline, metrics[: metrics.index(chosen)]
    notes: list[str] = []
    if headline.corpus:
        low, high = headline.low * headline.scale, headline.scale
        notes.append(f"a number of all documents together, {low:g} to {high:g}")
    if before and chosen.name != "score":
        first = before[0]
        why = first.unfit or "a number of all documents together"
        notes.append(f"{first.name}, listed first, is not taken: {why}")
    note = f"its score is {chosen.name} ({'; '.join(notes)})" if notes else None
    return Headline(
        headline.metric, headline.filter, headline.scale, headline.low, headline.corpus, note
    )


def headline_faults(tasks: Iterable[Any]) -> Iterator[str]:
    """Those of all tasks that are scored."""
    for task in tasks:
        try:
            headline_of(task)
        except UserError as error:
            yield from error.faults


def headline_notes(tasks: Iterable[Any]) -> Iterator[str]:
    """What was decided for the user, and which metrics will have no value; one line for a kind."""
    found: dict[str, list[str]] = {}
    for task in tasks:
        name = task.task_name
        if note := headline_of(task).note:
            found.setdefault(note, []).append(name)
        for metric in task_metrics(task):
            if metric.not_computable:
                what = f"its metric {metric.name} is not computed: {metric.not_computable}"
                found.setdefault(what, []).append(name)
    for what, names in found.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"{', '.join(names[:3])}{more}: {what}"


def _labels(task: Any, items: Sequence[Any]) -> int:
    """How many labels (gold, predicted) pairs may hold."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0
    seen = {str(label) for item in items if isinstance(item, tuple | list) for label in item}
    return max(len(task.doc_to_choice(task.eval_docs[0])), len(seen))
