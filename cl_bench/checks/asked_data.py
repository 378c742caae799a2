"""What methods ask of the data: tasks that their options name, and examples enough for a stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cl_bench.data.chat import chat_of
from cl_bench.data.choices import MOST
from cl_bench.data.examples import training_faults
from cl_bench.data.tasks import canonical_name
from cl_bench.errors import UserError, nearest
from cl_bench.evaluation.asked import leaves_named

if TYPE_CHECKING:
    from cl_bench.checks.found import Preflight


def shot_faults(found: Preflight) -> Iterator[str]:
    """More worked examples in a prompt than the task has documents to take them from."""
    for name, task in found.suite.leaves.items():
        config = task.config
        shots = int(config.num_fewshot or 0)
        if not shots:
            continue
        there = len(list(task.fewshot_docs()))
        own = config.fewshot_split == (config.test_split or config.validation_split)
        if shots > there - own:
            beside = " (beside the one that is asked)" if own else ""
            yield (
                f"{name}: num_fewshot: {shots} worked examples, but its split "
                f"'{config.fewshot_split}' has {there - own}{beside}"
            )


def prompt_faults(found: Preflight) -> Iterator[str]:
    """Scored documents of which a task's own template or function cannot make a prompt."""
    for name, task in found.suite.leaves.items():
        for document in list(found.suite.documents.get(name, ()))[:MOST]:
            doc = task.eval_docs[document]
            try:
                task.doc_to_text(doc)
                if chat_of(task) is not None:
                    task.fewshot_context(doc, num_fewshot=0)
            except Exception as error:
                what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                yield f"{name}: test document {document}: no prompt can be made ({what})"
                break


def task_faults(found: Preflight) -> Iterator[str]:
    """Options `task:` that `Stage.task_examples` would not know, or that have no training rows."""
    suite, config = found.suite, found.config
    known = {*suite.stage_tasks, *config.eval.general.tasks, *suite.general, *suite.leaves}
    asked = {
        (run.label, task): None
        for run in found.runs
        for stage in run.stages
        for part in stage.parts
        if isinstance(task := getattr(part.options, "task", None), str)
    }
    for label, task in asked:
        where = f"methods: {label}: task: {task}"
        if not known & {task, canonical_name(task)}:
            yield f"{where}: no task of this config{nearest(task, known)}"
            continue
        try:
            leaves = leaves_named(suite, config, task)
        except UserError as error:
            yield from (type(fault)(f"{where}: {fault}") for fault in error.faults)
            continue
        for leaf in leaves.values():
            if faults := training_faults(leaf, shots=True):
                yield f"{where}: {faults[0]}"
                break


def count_faults(found: Preflight) -> Iterator[str]:
    """Stages with fewer examples than a method needs (`Method.least_examples`)."""
    for run in {run.label: run for run in found.runs}.values():
        for stage in run.stages:
            count = sum(len(found.examples[task, limit, run.seed]) for task, limit in stage.sets)
            for part in stage.parts:
                if count < (least := part.method(part.options).least_examples):
                    yield (
                        f"methods: {run.label}: stage {stage.index}: {part.method.name} needs "
                        f"{least} examples at least with these options, and the stage has {count}: "
                        "give it more (limit:), or other options"
                    )
