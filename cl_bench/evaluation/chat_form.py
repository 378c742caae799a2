"""Whether the tasks of an experiment can be asked in the chat template that its config wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cl_bench.config.schema import ModelConfig
from cl_bench.data.chat import Chat, opened_chat
from cl_bench.evaluation.whole_prompt import WholePromptTask
from cl_bench.methods.spec import Experiment
from cl_bench.models.any_folder import any_tokenizer


def chat_of_model(model: ModelConfig) -> tuple[Chat | None, list[str]]:
    """The chat form of a config's model, and why it cannot be had; None is plain text."""
    if model.chat_template == "off":
        return opened_chat("off", model.system, model.fewshot_as_multiturn, None)
    from cl_bench.models.load import load_tokenizer, resolve_model_path

    tokenizer = load_tokenizer(resolve_model_path(model.source))
    return opened_chat(model.chat_template, model.system, model.fewshot_as_multiturn, tokenizer)


def chat_of_folder(
    model: str, template: str, say: Callable[[str], None]
) -> tuple[Chat | None, list[str]]:
    """The chat form of any model, and why it cannot be had.

    `say` is told of a template that is not used.
    """
    tokenizer = any_tokenizer(model)
    if template == "off" and tokenizer.chat_template:
        say(f"{model}: has a chat template, which is not used: --chat-template auto asks in it")
    return opened_chat(template, None, True, tokenizer)


def chat_faults(tasks: Mapping[str, Any], experiment: Experiment) -> Iterator[str]:
    """What has no chat form: tasks, TRACE's collator, rows with worked examples in one text."""
    yield from without_form(tasks)
    trains = [experiment.config.train, *(s.train for r in experiment.chosen for s in r.stages)]
    if any(train.truncation == "trace" for train in trains):
        yield "train.truncation: trace: TRACE's collator knows no model.chat_template; use left"
    for row in experiment.chosen_in_context:
        yield (
            f"methods: {row.label}: shots: worked examples in TRACE's layouts are one plain text; "
            "use model.chat_template: off for them"
        )


def without_form(tasks: Mapping[str, Any]) -> Iterator[str]:
    """Tasks that cannot be asked in a chat template."""
    for name, task in tasks.items():
        if isinstance(task, WholePromptTask):
            yield (
                f"model.chat_template: {name} asks with whole prompts, which no template divides "
                "into turns: use eval.general.protocol: lm-eval"
            )
        elif task.OUTPUT_TYPE == "loglikelihood_rolling":
            yield f"model.chat_template: {name} measures texts as a whole, which have no turns"
