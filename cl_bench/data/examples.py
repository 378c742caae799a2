"""Prompt/answer pairs from any task of lm-evaluation-harness, and which documents are scored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from cl_bench.data.chat import TURNS, Chat, Frame, chat_of, frame_of
from cl_bench.data.json_text import json_type
from cl_bench.data.learned_turns import Span, learned_before
from cl_bench.data.rows import first_faults
from cl_bench.errors import UserError
from cl_bench.seeds import derive_seed, shuffled

Kind = Literal["generate", "choice"]


@dataclass(frozen=True)
class Example:
    """One training pair as text; the model sees `prompt + answer`.

    `answer` has the task's `target_delimiter` in front. `kind` says how the pair is tokenised:
    `generate` apart, `choice` as lm-evaluation-harness scores a continuation.
    """

    prompt: str
    answer: str
    doc_id: int
    """Row of the task's training split."""
    task: str
    kind: Kind
    frame: Frame | None = None
    """What stands around question and answer, which `prompt` holds then; None: nothing."""
    learned: tuple[Span, ...] = ()
    """Characters of `prompt` that are learned as the answer is: the assistant's earlier turns."""


class _BadDocumentError(ValueError):
    """A document without a text to train on; the message says why."""


def training_examples(
    task: Any, limit: int | None, seed: int, shots: bool = False
) -> list[Example]:
    """The training split of a `ConfigurableTask` as prompt/answer pairs, in the split's order.

    The prompt is the 0-shot context that scoring builds, with description and `gen_prefix`. The
    answer is the gold target, resolved through `doc_to_choice` where it is an index, the first
    where it is a list. `limit` takes a seeded random subset that depends on (seed, task, size of
    the split) only. With `shots` a task without a training split gives the documents that its shots
    are drawn from (MMLU's `dev`), which are never those that are scored.

    Raises UserError when the task has no training split or an empty one, has no text target, or
    when documents have none.
    """
    faults = training_faults(task, shots)
    if faults:
        raise UserError(faults)
    name = task.task_name
    documents = task.fewshot_docs() if _only_shots(task) else task.training_docs()
    examples: list[Example] = []
    for doc_id in seeded_subset(len(documents), limit, seed, "train", name):
        try:
            examples.append(example_of(task, documents[doc_id], doc_id))
        except _BadDocumentError as error:
            faults.append(f"{name}: training document {doc_id}: {error}")
        except Exception as error:  # of the task's own templates and functions
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            faults.append(f"{name}: training document {doc_id}: {what}")
    if faults:
        raise UserError(first_faults(faults, name))
    return examples


def sample_documents(task: Any, limit: int | None, seed: int) -> list[int]:
    """Ids of the documents to score, ascending: all, or a seeded random subset of `limit`.

    The same for every method and stage. For `simple_evaluate(samples={task: ids})`.
    """
    return seeded_subset(len(task.eval_docs), limit, seed, "score", task.task_name)


def seeded_subset(size: int, limit: int | None, *seed: int | str) -> list[int]:
    """Ascending indices below `size`: all, or `limit` of them; a smaller one is within a larger."""
    if limit is None or limit >= size:
        return list(range(size))
    return sorted(shuffled(size, limit, derive_seed(*seed)))


def training_faults(task: Any, shots: bool = False) -> list[str]:
    """Why a loaded task cannot be a stage, as messages; empty when it can.

    With `shots` one whose shots have documents of their own will do.
    """
    name = task.task_name
    if not made_of_fields(task):
        return [
            f"{name}: cannot be trained on: its prompts and targets are made by a Python class "
            f"({type(task).__name__}), not by fields of its YAML"
        ]
    config = task.config
    if config.output_type == "loglikelihood_rolling":
        return [f"{name}: cannot be trained on: it measures perplexity and has no answers"]
    if config.doc_to_image is not None or config.doc_to_audio is not None:
        return [f"{name}: cannot be trained on: its prompts are not text alone"]
    if config.doc_to_target is None and config.use_prompt is None:
        return [f"{name}: cannot be trained on: it has no doc_to_target, so no answers"]
    if shots and _only_shots(task):
        return [] if len(task.fewshot_docs()) else [f"{name}: there are no documents of its shots"]
    if not task.has_training_docs():
        return [f"{name}: cannot be trained on: its YAML names no training_split"]
    if config.training_split not in task.dataset:
        return [f"{name}: its training split '{config.training_split}' is not in its data"]
    if len(task.training_docs()) == 0:
        return [f"{name}: its training set is empty"]
    return [f"{name}: {fault}" for fault in _not_columns(task)]


def _not_columns(task: Any) -> list[str]:
    """Fields that look like the name of a column and are none: lm-eval takes them as they are."""
    choices = task.config.doc_to_choice
    found = []
    for key in ("doc_to_text", "doc_to_target"):
        given = getattr(task.config, key)
        if not isinstance(given, str) or not re.fullmatch(r"[A-Za-z_]\w*", given):
            continue
        if given in task.features or (isinstance(choices, list) and given in choices):
            continue
        found.append(
            f"{key}: '{given}' is no column of its data (there: {', '.join(task.features)}), and "
            "as a text it would be the same for every document; in braces, {{ }}, it is a template"
        )
    return found


def _only_shots(task: Any) -> bool:
    """Whether a task has no training split, but another than the scored one for its shots."""
    split, config = task.config.fewshot_split, task.config
    scored = config.test_split if task.has_test_docs() else config.validation_split
    return not task.has_training_docs() and split in task.dataset and split != scored


def answer_text(task: Any, doc: Any, target: str) -> str:
    """An answer as it follows the document's prompt, delimiter included."""
    return delimiter(task, task.doc_to_prefix(doc), target) + target


def gold_answer(task: Any, doc: Any) -> str | None:
    """`answer_text` of the gold target (the first of several); None where a document has none."""
    if task.config.doc_to_target is None:
        return None
    try:
        return answer_text(task, doc, gold_text(task, doc))
    except _BadDocumentError:
        return None


def own_prompt(task: Any, doc: Any) -> str:
    """A document's 0-shot prompt, with description and `gen_prefix`; the gold one of several.

    Raises ValueError when the gold one is not among them, and for a prompt that is no text.
    """
    column = task.config.doc_to_text
    if isinstance(column, str) and column in task.features:
        value = doc[column]
        if value is None or isinstance(value, dict):
            raise _BadDocumentError(f"its prompt ('{column}') is {json_type(value)}, not a text")
    context = task.fewshot_context(doc=doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc))
    if isinstance(context, list):
        gold = task.doc_to_text(doc)
        if not 0 <= gold < len(context):
            raise _BadDocumentError(f"its gold input {gold} is not one of {len(context)}")
        context = context[gold]
    return str(context)


def made_of_fields(task: Any) -> bool:
    """Whether prompts and targets are fields of the task's YAML, not made by a Python class."""
    from lm_eval.api.task import ConfigurableTask

    return type(task) is ConfigurableTask


def example_of(task: Any, doc: Any, doc_id: int) -> Example:
    """A document as it is trained; ValueError where it has no prompt or no answer."""
    prompt = own_prompt(task, doc)
    kind: Kind = "generate" if task.config.output_type == "generate_until" else "choice"
    answer = answer_text(task, doc, gold_text(task, doc))
    chat = chat_of(task)
    turns = doc.get(TURNS) if chat is not None and isinstance(doc, Mapping) else None
    learned = () if chat is None or turns is None else learned_before(chat, turns, prompt)
    return Example(prompt, answer, doc_id, task.task_name, kind, frame_of(task), learned)


def in_form(example: Example, chat: Chat | None) -> Example:
    """A plain example as it is asked in a chat template."""
    if chat is None:
        return example
    return replace(example, prompt=chat.ask(example.prompt), frame=chat.frame)


def delimiter(task: Any, prefix: str | None, target: str) -> str:
    """What scoring puts between context and target.

    A `loglikelihood` target is appended as it is. After a `gen_prefix` that a model continues,
    lm-evaluation-harness's few-shot examples have a space, unless there is one already.
    """
    if task.config.output_type == "loglikelihood":
        return ""
    if task.config.output_type == "generate_until" and prefix:
        return "" if prefix[-1].isspace() or target[:1].isspace() else " "
    if chat_of(task) is not None and not (prefix and not prefix[-1].isspace()):
        return ""
    return str(task.config.target_delimiter)


def gold_text(task: Any, doc: Any) -> str:
    """The gold target of a document as text, the first of several; ValueError where it has none."""
    target = task.doc_to_target(doc)
    if isinstance(target, (list, tuple)):
        if not target:
            raise _BadDocumentError("its list of targets is empty")
        target = target[0]
    if target is None or isinstance(target, dict):
        raise _BadDocumentError(f"its target is {json_type(target)}, not a text")
    if task.config.doc_to_choice is None or task.multiple_input:
        if isinstance(target, bool):  # "True" is Python's word for it, the file says true
            raise _BadDocumentError("its target is true/false, not a text")
        return str(target)
    choices = task.doc_to_choice(doc)
    if isinstance(target, str) and target in choices:
        return target
    if not isinstance(target, int) or not 0 <= target < len(choices):
        raise _BadDocumentError(f"its target {target!r} is none of its {len(choices)} choices")
    return str(choices[target])
