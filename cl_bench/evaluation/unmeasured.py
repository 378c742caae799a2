"""Documents of which a model says nothing that could be scored, and what that makes of a task.

A score over them would be a number all the same, of NaN or of the first choice. So the task is not
measured: the mean of its other documents would be another sample's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, isfinite, isinf, isnan
from typing import Any

import numpy as np

from cl_bench.evaluation.aggregates import NO_NUMBER, is_number
from cl_bench.evaluation.finite import NotFinite
from cl_bench.evaluation.headline import Headline
from cl_bench.evaluation.metric_values import MetricSummary, Sample, of_all

ADVICE = (
    "weights that are no numbers, a dtype that is too narrow (model.dtype: float32), or a token "
    "that the model excludes"
)
"""Where such values come from."""


def why_not_measured(
    task: Any,
    headline: Headline,
    samples: Sequence[Sample],
    kept: Sequence[Sample],
    summary: MetricSummary,
) -> tuple[str | None, dict[int, str]]:
    """Why a task has no score, and why by document; None and nothing if it has one.

    `samples` are of all filters, `kept` of the headline's. Documents without a score are those
    with an answer from logits that are no numbers, a log-likelihood of NaN or +inf, -inf for every
    choice, or a headline metric that is not finite. -inf for some of the choices is an answer.
    """
    bad: dict[int, str] = {}
    for sample in samples:
        why = _of_document(task, headline, sample)
        if why is not None:
            bad.setdefault(int(sample["doc_id"]), why)
    if bad:
        first, why = next(iter(bad.items()))
        return f"{task.task_name}, document {first}{_more(len(bad) - 1)}: {why}", bad
    reason = of_all(headline, kept, summary).reason if headline.corpus else None
    if reason is not None and reason.startswith(NO_NUMBER):
        return f"{task.task_name}: {headline.metric} of all documents: {reason}", {}
    return None, {}


def not_measured_members(reasons: Iterable[str | None]) -> str | None:
    """Why a group has no score: its first member without one; None if all have one."""
    found = [reason for reason in reasons if reason is not None]
    if not found:
        return None
    return found[0] + (f"; and {len(found) - 1} more of its tasks" if found[1:] else "")


def choice_values(task: Any, sample: Sample, headline: str) -> np.ndarray:
    """What the headline metric compares of a `multiple_choice` document: a number a choice."""
    choices = task.doc_to_choice(sample["doc"])
    scores = np.array([float(response[0]) for response in sample["filtered_resps"]])
    conditional, alone = scores[: len(choices)], scores[len(choices) :]
    if headline == "acc_mutual_info":
        with np.errstate(invalid="ignore"):  # -inf - -inf
            conditional = conditional - alone
    if headline == "acc_norm":
        conditional = conditional / [float(len(choice)) for choice in choices]
    if headline == "acc_bytes":
        conditional = conditional / [float(len(choice.encode())) for choice in choices]
    return conditional


def _of_document(task: Any, headline: Headline, sample: Sample) -> str | None:
    if task.OUTPUT_TYPE == "generate_until":
        given = [text for texts in sample.get("resps", ()) for text in texts]
        if any(isinstance(text, NotFinite) for text in given):
            return "an answer from logits that are no numbers"
    elif (why := _of_likelihoods(task, headline, sample)) is not None:
        return why
    value: Any = sample.get(headline.metric)
    if not headline.corpus and is_number(value) and not isfinite(float(value)):
        return f"its {headline.metric} is {float(value)}"
    return None


def _of_likelihoods(task: Any, headline: Headline, sample: Sample) -> str | None:
    values = [float(np.ravel(each)[0]) for each in sample["filtered_resps"]]
    wrong = [value for value in values if isnan(value) or value == inf]
    if wrong:
        return f"a log-likelihood of {wrong[0]}"
    if values and all(map(isinf, values)):
        several = "of every choice " if len(values) > 1 else ""
        return f"a log-likelihood {several}of -inf"
    if task.OUTPUT_TYPE == "multiple_choice":
        best = float(np.max(choice_values(task, sample, headline.metric)))
        if not isfinite(best):
            return f"no choice is the likeliest ({best})"
    return None


def _more(count: int) -> str:
    return f" (and {count} more)" if count else ""
