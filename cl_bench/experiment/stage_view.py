"""A stage as its method sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.data.chat import chat_of
from cl_bench.data.examples import Example
from cl_bench.evaluation.shared_prefix.texts import generate_texts
from cl_bench.experiment.batcher import Batcher, batcher_of
from cl_bench.experiment.library import RunLibrary
from cl_bench.methods.base import Stage
from cl_bench.methods.spec import RunSpec
from cl_bench.models.checkpoints import is_adapter
from cl_bench.store.folders import RunFolder

if TYPE_CHECKING:
    from cl_bench.experiment.workplace import Workplace

SCRATCH = "scratch"
"""In the folder of a stage that is trained: `Stage.folder`."""


def stage_view(
    work: Workplace,
    run: RunSpec,
    folder: RunFolder,
    position: int,
    model: Any,
    tokenizer: Any,
    scratch: Path,
) -> tuple[Stage, Batcher]:
    """The stage as its method sees it, and how its examples become batches."""
    spec = run.stages[position]
    train = spec.train
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    batcher = batcher_of(model, tokenizer, train, work.device, work.processes)
    plain = not is_adapter(model)
    chat = chat_of(work.suite.stage_tasks[spec.tasks[0]])
    names = [name for name, _ in model.named_parameters()] if plain else []
    stage = Stage(
        index=spec.index,
        task=spec.name,
        seed=run.seed,
        train=train,
        model=model,
        examples=[e for task, limit in spec.sets for e in work.examples[task, limit, run.seed]],
        earlier=[
            (task, work.examples[task, limit, run.seed]) for task, limit in run.earlier(position)
        ],
        device=work.device,
        share=lambda examples, numbers: batcher.share(train, examples, numbers),
        all_reduce=work.processes.all_reduce,
        epochs=spec.epochs,
        tokenizer=tokenizer,
        library=RunLibrary(work, run, folder, position, names),
        writer=partial(generate_texts, frame=None if chat is None else chat.frame),
        chat=chat,
        scratch=scratch,
        first_tells=work.processes.told,
        start=spec.start,
    )
    return stage, batcher


def lost_ends(stage: Stage, encode: Callable[[Sequence[Example]], Any]) -> dict[str, Any]:
    """Answers that were cut, and so trained without their end, and answers in the midst of
    conversations that were cut away; nothing where there are none."""
    encoded, train = encode(stage.examples), stage.train
    found: dict[str, Any] = {}
    if lost := sum(one.truncated_answer_tokens > 0 for one in encoded):
        limit = {"max_answer_tokens": train.max_answer_tokens}
        found["answers_without_end"] = {"answers": lost, "of": len(encoded), **limit}
    if lost := sum(one.lost_turns for one in encoded):
        of = sum(len(one.learned) for one in stage.examples)
        limit = {"max_prompt_tokens": train.max_prompt_tokens}
        found["earlier_answers_cut"] = {"answers": lost, "of": of, **limit}
    return found
