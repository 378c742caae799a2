"""Before the start: rows with worked examples have enough of them, and answers that can be right.

What their prompts come to is said here, by task: it is what such a row costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from cl_bench.checks.gold_answers import NEEDED, golds_of, sample, told
from cl_bench.checks.perfect_generation import generator, model_eos
from cl_bench.checks.reachable import reach
from cl_bench.data.examples import own_prompt
from cl_bench.data.in_context import goes_without
from cl_bench.data.tasks import defining_file
from cl_bench.data.tokens import encode_prompts
from cl_bench.evaluation.in_context import WorkedExamples, positions_of, worked_examples

if TYPE_CHECKING:
    from cl_bench.checks.found import Preflight
    from cl_bench.methods.spec import InContextSpec

LOOKED_AT = 64
"""Documents whose prompts are built to say how long they are; the seeded sample of a task."""


def check_in_context(found: Preflight) -> Iterator[str]:
    """Faults of rows with worked examples; how long their prompts are is noted."""
    train = found.config.train
    positions = positions_of(found.suite.engine, found.skeleton.config, found.tokenizer)
    for row in found.experiment.chosen_in_context:
        room = row.options.max_prompt_tokens
        if (room or 1) + train.max_answer_tokens > positions:
            yield (
                f"methods: {row.label}: max_prompt_tokens {room or 1} with train.max_answer_tokens "
                f"{train.max_answer_tokens} is more than the model's window of {positions} tokens"
            )
            continue
        for name in found.experiment.base_columns:
            yield from _of_task(found, row, name, positions)


def _of_task(found: Preflight, row: InContextSpec, name: str, positions: int) -> Iterator[str]:
    task, rows = found.suite.stage_tasks[name], found.trained_on(name, row.seed)
    documents = found.suite.documents[name]
    if task.multiple_input:
        yield f"methods: {row.label}: {name}: has a prompt for every choice: give it no examples"
        return
    worked = worked_examples(
        task, rows, documents, row.options, row.seed, found.tokenizer, found.config.train, positions
    )
    none = goes_without(row.options.layout, name)
    if len(worked.examples) < worked.asked and not none:
        yield (
            f"methods: {row.label}: {name}: {len(worked.examples)} of its {len(rows)} training "
            f"examples are no scored documents: shots: {worked.asked} needs as many"
        )
        return
    if fault := _unreachable(found, row, worked):
        yield fault
    said = "no examples: TRACE's layout asks it without" if none else _length(worked, documents)
    found.say(f"{row.label}, seed {row.seed}: {name}: {said}")


def _length(worked: WorkedExamples, documents: Sequence[int]) -> str:
    """Tokens of prompts without and with examples, and how many documents get fewer."""
    task, train = worked.task, worked.train
    ids = sample(documents, task.task_name)[:LOOKED_AT]
    questions = [own_prompt(task, task.eval_docs[i]) for i in ids]
    prompts = [worked.prompt(question) for question in questions]
    counts = [worked.used[prompt][1] for prompt in prompts]
    without = encode_prompts(worked.tokenizer, questions, train.max_prompt_tokens, train.truncation)
    plain = fmean(len(one.ids) for one in without)
    tokens = fmean(map(len, worked.encode(prompts)))
    fewer = sum(count < worked.asked for count in counts)
    less = f"; {fewer} of them have fewer examples than {worked.asked}" if fewer else ""
    return (
        f"{tokens:.0f} tokens a prompt, {plain:.0f} without examples (means of {len(ids)} "
        f"documents; at most {worked.room}){less}"
    )


def _unreachable(found: Preflight, row: InContextSpec, worked: WorkedExamples) -> str | None:
    """Where ends of answers, or the limit of one token, take score from gold answers."""
    task = worked.task
    if task.OUTPUT_TYPE != "generate_until":
        return None
    docs = task.eval_docs
    golds = golds_of(task, docs, sample(found.suite.documents[task.task_name], task.task_name))
    eos, limit = model_eos(found.model_path), found.config.train.max_answer_tokens
    plain = reach(task, golds, generator(task, found.tokenizer, eos, limit))
    with worked.in_front():
        ended = reach(task, golds, generator(task, found.tokenizer, eos, limit))
    if ended.share >= plain.share or not ended.losses:
        return None
    file = defining_file(task.task_name, found.config.task_paths)
    said = f"methods: {row.label}: {task.task_name}: {told(ended, 'test', str(file))}"
    if ended.share < NEEDED * plain.share and not found.config.allow_unreachable:
        return f"{said}; or accept it with `allow_unreachable: true`"
    found.note(said)
    return None
