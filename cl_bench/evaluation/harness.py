"""Scores tasks with lm-evaluation-harness on a model in memory."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np

from cl_bench.evaluation.aggregates import aggregated_elsewhere
from cl_bench.evaluation.answer_form import kind_of, labels_of
from cl_bench.evaluation.answer_limits import limited
from cl_bench.evaluation.headline import headline_of
from cl_bench.evaluation.metric_values import (
    MetricSummary,
    constant_answer,
    document_score,
    score_of,
    summarise_metrics,
)
from cl_bench.evaluation.probes.records import DocumentProbe
from cl_bench.evaluation.unmeasured import (
    choice_values,
    not_measured_members,
    why_not_measured,
)
from cl_bench.evaluation.whole_prompt import whole_prompts
from cl_bench.scores.cells import Cell, stratified_mean, weighted_mean

FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class TaskResult:
    """One task's score: the cell for the tables and a record for every document."""

    cell: Cell | None
    """None: not measured, as `not_measured` says."""
    metrics: dict[str, float | None]
    """Every metric of the task on its own scale, as lm-eval aggregates it; None: not computed."""
    labels: dict[str, float] | None = None
    """Shares of the predicted labels (closed label sets only); `other` for anything else."""
    majority: float | None = None
    """Accuracy of the best constant answer on the same documents."""
    records: list[dict[str, Any]] = field(default_factory=list)
    headline: str = "score"
    """The metric that the cell holds; with several filters, the filter's name behind a comma."""
    how: Mapping[str, Any] = field(default_factory=dict)
    """`metric`, `filter`, `aggregation` of the cell and, unless it is 1, `scale`."""
    summary: MetricSummary = field(default_factory=lambda: MetricSummary({}))
    """`metrics` with their uncertainty."""
    resamples: Sequence[float] = ()
    """The cell's score over resampled documents, of a metric of all documents together."""
    samples: list[Mapping[str, Any]] = field(default_factory=list, repr=False)
    """What lm-eval has of every record's document: `doc`, `arguments` of its requests, ..."""
    probes: list[DocumentProbe] = field(default_factory=list)
    not_measured: str | None = None

    @property
    def n(self) -> int:
        """The number of documents."""
        return len(self.records) if self.cell is None else self.cell.n

    def to_json(self) -> dict[str, Any]:
        """What `scores.json` holds for the task."""
        data: dict[str, Any] = {
            "score": None if self.cell is None else self.cell.score,
            "stderr": None if self.cell is None else self.cell.stderr,
            "n": self.n,
            "metrics": self.metrics,
        }
        if self.not_measured is not None:
            data["not_measured"] = self.not_measured
        if self.majority is not None:
            data |= {"majority": self.majority, "labels": self.labels}
        data |= {**self.how, **self.summary.to_json()}
        return data | {"resamples": list(self.resamples)} if self.resamples else data


def evaluate_tasks(
    lm: Any,
    tasks: Mapping[str, Any],
    documents: Mapping[str, Sequence[int]],
    max_new_tokens: int | None = None,
) -> dict[str, TaskResult]:
    """Score `documents` (ids in each task's test split) with lm-eval's `evaluate`.

    That is the function `simple_evaluate` ends in; calling it directly leaves global seeds alone.
    `max_new_tokens` caps generation (stage tasks); None keeps what each task's YAML says.
    """
    from lm_eval.evaluator import evaluate

    for task in tasks.values():
        # Drawn shots would differ in every call otherwise; this is lm-eval's own default.
        task.set_fewshot_seed(FEWSHOT_SEED)
    quiet = logging.getLogger("lm_eval")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with (
            answers_capped(tasks.values(), max_new_tokens),
            whole_prompts(lm),
            aggregated_elsewhere(tasks),
        ):
            results = evaluate(
                lm=lm,
                task_dict=dict(tasks),
                samples={name: list(documents[name]) for name in tasks},
                bootstrap_iters=0,
                log_samples=True,
                confirm_run_unsafe_code=True,  # `load_suite` has asked
            )
    finally:
        quiet.setLevel(level)
        for task in tasks.values():
            task._instances = None
    assert results is not None, "lm-eval returns None on other ranks than 0 only"
    return {name: summarise_task(task, results["samples"][name]) for name, task in tasks.items()}


def group_json(members: Mapping[str, TaskResult], sizes: Mapping[str, int]) -> dict[str, Any]:
    """A benchmark's entry in `scores.json`: its one task, or the unweighted mean of a group.

    Unweighted is what TRACE and OpenCompass report for MMLU, BBH and TyDiQA, also of the other
    metrics. The mean weighted by documents (lm-eval's) stands beside it: by those that a member has
    (`sizes`), since of a sample all have equal shares. Without a score where a member has none.
    """
    if len(members) == 1:
        return next(iter(members.values())).to_json()
    cells = {name: result.cell for name, result in members.items() if result.cell is not None}
    reason = not_measured_members(result.not_measured for result in members.values())
    mean = stratified_mean(cells.values()) if reason is None else None
    whole = [replace(cell, n=sizes[name]) for name, cell in cells.items()]
    metrics = [result.metrics for result in members.values()]
    shared = [name for name in metrics[0] if all(name in each for each in metrics)]
    hows = [result.how for result in members.values()]
    keys = dict.fromkeys(key for how in hows for key in how)
    return {
        "score": None if mean is None else mean.score,
        "stderr": None if mean is None else mean.stderr,
        "n": sum(result.n for result in members.values()),
        **({} if reason is None else {"not_measured": reason}),
        "metrics": {name: _mean_of([each[name] for each in metrics]) for name in shared},
        "weighted": None if mean is None else weighted_mean(whole).score,
        **{key: "/".join(dict.fromkeys(str(how.get(key, 1)) for how in hows)) for key in keys},
        "members": {name: result.to_json() for name, result in members.items()},
    }


@contextmanager
def answers_capped(tasks: Iterable[Any], max_new_tokens: int | None) -> Iterator[None]:
    """Limit the answers of generation tasks, until the block ends; None limits nothing."""
    before = []
    for task in tasks:
        if max_new_tokens is not None and task.OUTPUT_TYPE == "generate_until":
            own = task.config.generation_kwargs or {}
            before.append((task, own))
            task.set_config("generation_kwargs", limited(own, max_new_tokens))
    try:
        yield
    finally:
        for task, own in before:
            task.set_config("generation_kwargs", own)


def summarise_task(task: Any, samples: Sequence[Mapping[str, Any]]) -> TaskResult:
    """Cell, metrics and records from lm-eval's per-document samples.

    A task with a document that the model gave no number is not measured: its other documents are
    another sample. Raises UserError when the task has no score, or a document has a value that is
    none.
    """
    headline = headline_of(task, list(samples[0]["metrics"]))
    wanted = headline.filter or samples[0]["filter"]
    kept = [sample for sample in samples if sample["filter"] == wanted]
    summary = summarise_metrics(task, samples, headline.metric)
    reason, bad = why_not_measured(task, headline, samples, kept, summary)
    cell: Cell | None = None
    resamples: Sequence[float] = ()
    if reason is None:
        cell, scores, resamples = score_of(task, headline, kept, summary)
    else:
        wrong = [int(sample["doc_id"]) in bad for sample in kept]
        pairs = zip(kept, wrong, strict=True)
        scores = [None if is_bad else document_score(headline, one) for one, is_bad in pairs]
        summary = MetricSummary(dict.fromkeys(summary.values))
    records = [
        _record(sample, score) | _answer(task, sample, headline.metric, bad)
        for sample, score in zip(kept, scores, strict=True)
    ]
    if headline.corpus:
        shares, majority = constant_answer(task, headline, kept)
    else:
        shares, majority = _labels(task, records)
    named = f"{headline.metric},{wanted}"
    return TaskResult(
        cell,
        summary.values,
        None if cell is None else shares,
        majority,
        records,
        named if named in summary.values else headline.metric,
        {"metric": headline.metric, "filter": wanted, **headline.how(task)},
        summary,
        resamples,
        kept,
        not_measured=reason,
    )


def _labels(
    task: Any, records: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, float] | None, float | None]:
    """Shares of the predicted labels and the accuracy of the best constant answer.

    For tasks with a closed label set only (see `labels_of`).
    """
    answers = [str(record["target"]) for record in records]
    labels = labels_of(task, answers)
    length = 1 if kind_of(task) == "choice_with_reasoning" else None
    gold = Counter(answer[:length] for answer in answers)
    if not labels or any("prediction" not in record for record in records):
        return None, None
    given = [record["prediction"][:length] for record in records]
    predicted = Counter(label if label in labels else "other" for label in given)
    shares = {label: predicted[label] / len(records) for label in [*labels, "other"]}
    return shares, max(gold.values()) / len(records)


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _record(sample: Mapping[str, Any], score: float | None) -> dict[str, Any]:
    """A line of `predictions/<task>.jsonl`."""
    responses = sample["filtered_resps"]
    record: dict[str, Any] = {
        "doc_id": int(sample["doc_id"]),
        "prompt_hash": sample["prompt_hash"],
        "target": _plain(sample["target"]),
        "score": score,
    }
    # Metrics that are words say why a document has its score.
    record |= {name: sample[name] for name in sample["metrics"] if isinstance(sample[name], str)}
    if responses and isinstance(responses[0], str):
        return record | {"prediction": responses[0]}
    # A text as a whole (`loglikelihood_rolling`) has no word on whether it was the likeliest.
    values = [each[0] if isinstance(each, list | tuple) else each for each in responses]
    # JSON has no -inf, which is what a choice with an excluded token gets.
    numbers = [float(value) for value in values]
    return record | {"loglikelihoods": [n if math.isfinite(n) else None for n in numbers]}


def _answer(
    task: Any, sample: Mapping[str, Any], headline: str, bad: Mapping[int, str]
) -> dict[str, Any]:
    """Which choice the headline metric takes as the answer; the first among equals, as lm-eval.

    Of a document that is not measured, why.
    """
    if (reason := bad.get(int(sample["doc_id"]))) is not None:
        return {"not_measured": reason}
    if task.OUTPUT_TYPE != "multiple_choice":
        return {}
    return {"choice": int(np.argmax(choice_values(task, sample, headline)))}


def _plain(value: Any) -> Any:
    """A JSON value from what a task calls its target (NumPy numbers, lists, text)."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
