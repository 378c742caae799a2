"""What a task's metrics make of answers that need no model: the gold ones, and wrong ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cl_bench.data.examples import gold_answer
from cl_bench.evaluation.probes.questions import gold_choice

DOCUMENTS = 4
"""The first ones of the task: the same whatever is scored, so that the answer is the same too."""

TRIALS = "_cl_bench_trials"
"""Attribute of a task: its `Trial` by filter."""


@dataclass(frozen=True)
class Trial:
    """Values by metric, one for each document tried; empty where nothing could be tried."""

    gold: dict[str, list[Any]] = field(default_factory=dict)
    other: dict[str, list[Any]] = field(default_factory=dict)

    def values(self, metric: str) -> list[Any]:
        """Those of gold and of wrong answers."""
        return [*self.gold.get(metric, ()), *self.other.get(metric, ())]


def try_metrics(task: Any, wanted: str | None = None) -> Trial:
    """The metrics of a few documents, after the filter `wanted` (default: the first).

    A document on which they raise is left out. Tasks that run programs are not tried. Several ask,
    and a metric may be slow or cost money: a task's own are tried once.
    """
    kept = vars(task).setdefault(TRIALS, {})
    if wanted not in kept:
        kept[wanted] = _tried(task, wanted)
    trial: Trial = kept[wanted]
    return trial


def _tried(task: Any, wanted: str | None) -> Trial:
    trial = Trial()
    if getattr(task, "UNSAFE_CODE", False) or not hasattr(task, "process_results"):
        return trial
    docs = [task.eval_docs[i] for i in range(min(DOCUMENTS, len(task.eval_docs)))]
    for kept, answered in ((trial.gold, _gold(task, docs)), (trial.other, _wrong(task, docs))):
        for doc, answers in answered:
            try:
                found = task.process_results(doc, _filtered(task, doc, answers, wanted))
            except Exception:
                # What was made up here may lack what the metric reads; scoring will say.
                continue
            for metric, value in found.items():
                kept.setdefault(metric, []).append(value)
    return trial


def _gold(task: Any, docs: Sequence[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Documents with the responses of a model that is right."""
    for doc in docs:
        if task.OUTPUT_TYPE == "generate_until":
            if (answer := _answer(task, doc)) is not None:
                yield doc, [answer]
        elif task.OUTPUT_TYPE == "multiple_choice":
            if (gold := _choice(task, doc)) is not None:
                yield doc, _likelihoods(task, doc, gold)
        elif task.OUTPUT_TYPE == "loglikelihood":
            yield doc, [(-0.5, True)]
        else:
            yield doc, [-10.0]


def _wrong(task: Any, docs: Sequence[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Documents with the responses of a model that is wrong."""
    for number, doc in enumerate(docs):
        if task.OUTPUT_TYPE == "generate_until":
            yield doc, [""]
            other = _answer(task, docs[number - 1])
            if other is not None and other != _answer(task, doc):
                yield doc, [other]
        elif task.OUTPUT_TYPE == "multiple_choice":
            if (gold := _choice(task, doc)) is not None:
                yield doc, _likelihoods(task, doc, 0 if gold else 1)
        elif task.OUTPUT_TYPE == "loglikelihood":
            yield doc, [(-50.0, False)]
        else:
            yield doc, [-1000.0]


def _answer(task: Any, doc: Any) -> str | None:
    try:
        answer = gold_answer(task, doc)
    except Exception:
        return None
    return None if answer is None else answer.strip()


def _choice(task: Any, doc: Any) -> int | None:
    try:
        return gold_choice(task, {"doc": doc})
    except Exception:
        return None


def _likelihoods(task: Any, doc: Any, best: int) -> list[tuple[float, bool]]:
    """Of every choice, in nats, where `best` is the likeliest; twice for mutual information."""
    count = max(len(task.doc_to_choice(doc)), 2)
    given = [(-1.0 if i == best else -20.0, i == best) for i in range(count)]
    twice = "acc_mutual_info" in getattr(task, "_metric_fn_list", {})
    return given + [(-20.0, False)] * (count if twice else 0)


def _filtered(task: Any, doc: Any, answers: Sequence[Any], wanted: str | None) -> list[Any]:
    """What `process_results` is given: the responses of generation tasks after their filter."""
    if task.OUTPUT_TYPE != "generate_until":
        return list(answers)
    from lm_eval.api.instance import Instance

    instance = Instance("generate_until", doc, ("", {}), 0)
    instance.resps = list(answers) * (task.config.repeats or 1)
    for steps in task._filters:
        steps.apply([instance])
    found: Mapping[str, Any] = instance.filtered_resps
    return [found[wanted or next(iter(found))]]
