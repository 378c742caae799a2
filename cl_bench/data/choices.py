"""Choices without a text: an empty one has log-likelihood 0 and would always be the answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MOST = 1000
"""Documents of a task that are looked at."""


def empty_choice(task: Any, documents: Iterable[int]) -> str | None:
    """The first of these test documents that has an empty choice, as a fault; None: there is none.

    A list of choices in the YAML is the same for all documents, which are then not looked at.
    """
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.doc_to_choice is None:
        return None
    constant = isinstance(task.config.doc_to_choice, list | dict)
    for doc_id in list(documents)[: 1 if constant else MOST]:
        choices = list(task.doc_to_choice(task.eval_docs[doc_id]))
        if "" in choices:
            return _said(task.task_name, doc_id, choices)
    return None


def empty_choice_at_load(error: BaseException) -> str | None:
    """The same from what lm-eval raises for the first document; None for any other error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    found = trace.tb_frame.f_locals if trace is not None else {}
    choices, task = found.get("test_choice"), found.get("self")
    if not isinstance(error, IndexError) or not isinstance(choices, list) or "" not in choices:
        return None
    return _said(getattr(task, "task_name", "task"), 0, choices)


def _said(name: str, doc_id: int, choices: list[Any]) -> str:
    return (
        f"{name}: test document {doc_id}: choice {choices.index('')} of {choices!r} is empty "
        "(doc_to_choice): it would be the most likely answer whatever the model has learned; give "
        "it a text, or take the document out"
    )
