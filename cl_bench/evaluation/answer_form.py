"""What form a task's answers have: its closed set of labels, and what counts as valid format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cl_bench.metrics.modern import number
from cl_bench.metrics.trace_tasks import TASKS

NO_MATCH = "[invalid]"
"""What lm-eval's regex filters give, unless the YAML says otherwise, where nothing matches."""
EXTRACTING = ("regex", "multi_choice_regex", "regex_pos")


def kind_of(task: Any) -> str | None:
    """The kind of answer in `metrics.trace`'s terms: TRACE's own, or `metadata: {kind: ...}`."""
    trace = TASKS.get(task.task_name)
    named = (task.config.metadata or {}).get("kind")
    return str(named) if named else trace.kind if trace else None


def labels_of(task: Any, gold: Iterable[str]) -> list[str]:
    """The closed set of answers; empty where there is none.

    TRACE's, or `metadata: {labels: [...]}` of the YAML. Of `choice_with_reasoning` the first
    character is the label (all that TRACE's accuracy reads): those that `gold` begins with.
    """
    known = (task.config.metadata or {}).get("labels")
    if known:
        return [str(label) for label in known]
    if kind_of(task) == "choice_with_reasoning":
        return sorted({answer[:1] for answer in gold if answer})
    trace = TASKS.get(task.task_name)
    return list(trace.labels or ()) if trace else []


def valid_format(task: Any, labels: Sequence[str], wanted: str) -> Callable[[str], bool] | None:
    """Whether a prediction has the form that the task asks for; None where no form is defined.

    `choice_with_reasoning`: a label, then a character that is neither letter nor digit. Other
    closed label sets: one of them, to the letter. `number`: one number and nothing around it.
    Else, where the filter `wanted` extracts by a pattern: that it found something. Texts (summary,
    code, simplification) have no form.
    """
    kind = kind_of(task)
    if kind == "choice_with_reasoning":
        return lambda text: text[:1] in labels and len(text) > 1 and not text[1].isalnum()
    if labels:
        return lambda text: text in labels
    if kind == "number":
        return lambda text: number(text) is not None and text == text.strip()
    nothing = _fallback(task, wanted)
    return None if nothing is None else lambda text: text != nothing


def _fallback(task: Any, wanted: str) -> str | None:
    """What a filter gives where its pattern finds nothing; None if it looks for none."""
    for entry in getattr(task.config, "filter_list", None) or []:
        for step in entry["filter"] if entry["name"] == wanted else ():
            if step["function"] in EXTRACTING:
                return str(step.get("fallback", NO_MATCH))
    return None
