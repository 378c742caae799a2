"""Choices without a text, which would always be the answer, and answers that are no choice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cl_bench.data.json_text import json_type

MOST = 1000
"""Documents of a task that are looked at."""


def empty_choice(task: Any, documents: Iterable[int]) -> str | None:
    """The first of these test documents that has an empty choice, as a fault; None: there is none.

    A gold answer that is none of the choices is one too. A list of choices in the YAML is the same
    for all documents.
    """
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.doc_to_choice is None:
        return None
    constant = isinstance(task.config.doc_to_choice, list | dict)
    choices: list[Any] = []
    for doc_id in list(documents)[:MOST]:
        where, doc = f"{task.task_name}: test document {doc_id}", task.eval_docs[doc_id]
        if not choices or not constant:
            given = task.doc_to_choice(doc)
            if not isinstance(given, list | tuple):
                return f"{where}: its choices are {json_type(given)}, not a list (doc_to_choice)"
            choices = list(given)
            if "" in choices:
                return _said(task.task_name, doc_id, choices)
        if task.multiple_input:
            continue  # its gold answer is one of several prompts
        gold = task.doc_to_target(doc)
        if type(gold) is int and not 0 <= gold < len(choices):
            return (
                f"{where}: its target {gold} is none of its {len(choices)} choices: no answer "
                "would be right; take the document out, or name a split that has answers"
            )
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
