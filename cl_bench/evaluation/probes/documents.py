"""Probes: what a model knows of the gold answers, which small forgetting moves before accuracy.

Per document, teacher-forced: the gold answer's negative log-likelihood per token; for closed label
sets the most likely label, whatever the model would write; whether what it wrote has the valid
form. A right label in no valid form is lost format, a wrong one in valid form lost knowledge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite, isnan
from typing import Any

from cl_bench.config.schema import TrainConfig
from cl_bench.data.examples import made_of_fields
from cl_bench.evaluation.answer_form import kind_of, labels_of, valid_format
from cl_bench.evaluation.harness import TaskResult
from cl_bench.evaluation.probes.questions import (
    Question,
    gold_choice,
    prompted_questions,
    stage_questions,
)
from cl_bench.evaluation.probes.records import DocumentProbe
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM

CHOICES = ("multiple_choice", "loglikelihood")
"""Output types whose requests are log-likelihoods, the gold answer's among them."""


def probe_documents(
    lm: SharedPrefixLM, task: Any, result: TaskResult, train: TrainConfig | None
) -> list[DocumentProbe]:
    """The probes of a scored task's documents, `kl` aside.

    `train` is for stage tasks, whose answers are tokenised as in training; None for General.
    Tasks of a Python class (`class:` in the YAML) have no text target: nothing is measured.
    """
    probes = [DocumentProbe(record["doc_id"]) for record in result.records]
    if not made_of_fields(task):
        return probes
    if task.config.output_type in CHOICES:
        return _choices(lm, task, result, probes)
    if task.config.output_type != "generate_until":
        return probes
    labels = labels_of(task, [str(record["target"]) for record in result.records])
    questions = (
        prompted_questions(lm, task, result.samples, labels)
        if train is None
        else stage_questions(task, result.samples, labels, lm.tokenizer, train)
    )
    probes = _formats(task, result, labels, probes)
    by_letter = kind_of(task) == "choice_with_reasoning"
    targets = [str(record["target"])[: 1 if by_letter else None] for record in result.records]
    return _generated(lm, task, questions, labels, targets, probes)


def _choices(
    lm: SharedPrefixLM, task: Any, result: TaskResult, probes: Sequence[DocumentProbe]
) -> list[DocumentProbe]:
    """From log-likelihoods that are known already; only tokens are counted."""
    gold = [gold_choice(task, sample) for sample in result.samples]
    texts = [
        sample["arguments"][choice]
        for sample, choice in zip(result.samples, gold, strict=True)
        if choice is not None
    ]
    counts = iter(len(continuation) for _, continuation in lm.encode_pairs(texts))
    found = []
    for probe, record, choice in zip(probes, result.records, gold, strict=True):
        tokens = next(counts) if choice is not None else 0
        known = choice is not None and tokens
        if known:
            probe = _with_nll(probe, task, record["loglikelihoods"][choice], tokens)
        found.append(probe)
    return found


def _generated(
    lm: SharedPrefixLM,
    task: Any,
    questions: Sequence[Question],
    labels: Sequence[str],
    targets: Sequence[str],
    probes: Sequence[DocumentProbe],
) -> list[DocumentProbe]:
    """With the gold answer's likelihood and the most likely label (the first of equal ones)."""
    found = []
    scores = score_questions(lm, questions)
    for probe, question, target, score in zip(probes, questions, targets, scores, strict=True):
        gold, options = score
        if gold is not None and question.gold is not None:
            probe = _with_nll(probe, task, gold, len(question.gold[1]))
        if options and not _has_likeliest(options):
            probe = probe.without_number(task.task_name, "constrained")
        elif options:
            label = labels[max(range(len(labels)), key=options.__getitem__)]
            probe = replace(probe, label=label, constrained=float(label == target))
        found.append(probe)
    return found


def _with_nll(
    probe: DocumentProbe, task: Any, log_likelihood: float | None, tokens: int
) -> DocumentProbe:
    """A likelihood of 0 (an excluded token) has no finite logarithm, and a record null for it."""
    if log_likelihood is None or not isfinite(log_likelihood):
        return probe.without_number(task.task_name, "nll")
    return replace(probe, nll=-log_likelihood / tokens, tokens=tokens)


def _has_likeliest(options: Sequence[float]) -> bool:
    """A label with an excluded token is as unlikely as can be; NaN is no likelihood."""
    return not any(map(isnan, options)) and isfinite(max(options))


def score_questions(
    lm: SharedPrefixLM, questions: Sequence[Question]
) -> list[tuple[float | None, list[float]]]:
    """log p (nats) of every question's gold answer and of its labels; all in one go.

    A gold answer without tokens, or longer than the model's window, is not measured.
    """
    gold = [
        [question.gold] if question.gold and 0 < len(question.gold[1]) <= lm.max_length else []
        for question in questions
    ]
    pairs = [
        pair
        for asked, question in zip(gold, questions, strict=True)
        for pair in (*asked, *question.labels)
    ]
    scores = iter(lm.score_pairs(pairs))
    return [
        (next(scores) if asked else None, [next(scores) for _ in question.labels])
        for asked, question in zip(gold, questions, strict=True)
    ]


def _formats(
    task: Any, result: TaskResult, labels: Sequence[str], probes: Sequence[DocumentProbe]
) -> list[DocumentProbe]:
    """With `valid_format`. A right answer is valid (a month, where most answers are numbers)."""
    if not result.samples:
        return list(probes)
    is_valid = valid_format(task, labels, result.samples[0]["filter"])
    if is_valid is None:
        return list(probes)
    found = []
    for probe, record in zip(probes, result.records, strict=True):
        if "not_measured" in record:
            found.append(probe.without_number(task.task_name, "valid_format"))
            continue
        valid = is_valid(record["prediction"]) or record["prediction"] == record["target"]
        found.append(replace(probe, valid_format=float(valid)))
    return found
