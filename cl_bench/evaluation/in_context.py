"""A stage task asked with worked examples in front of every prompt, of a model that is not trained.

The examples are the same for all documents, so that an engine that shares prefixes reads them once.
A prompt is never cut: a document whose prompt would not fit gets fewer examples, the last ones left
out, and if none fits it is asked as without, cut as there. What each document got is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from lm_eval.utils import hash_string

from cl_bench.config.schema import InContext, TrainConfig
from cl_bench.data.examples import Example, own_prompt
from cl_bench.data.in_context import HABITS, Layout, choose, ends_of, goes_without, layout_of
from cl_bench.data.tokens import encode_answers, encode_prompts
from cl_bench.evaluation.answer_form import kind_of, labels_of
from cl_bench.evaluation.answer_limits import limited
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.harness import TaskResult
from cl_bench.models.positions import window
from cl_bench.store.folders import sha256_of

ANY_LENGTH = 10**9


@dataclass(frozen=True)
class WorkedExamples:
    """The examples of one task and how they are put in front of its documents."""

    task: Any
    asked: int
    examples: tuple[Example, ...]
    layout: Layout
    ends: tuple[str, ...]
    first_token: bool
    tokenizer: Any
    train: TrainConfig
    room: int
    """Tokens of a prompt at most."""
    used: dict[str, tuple[str, int]] = field(default_factory=dict, compare=False)
    """By prompt the question in it and how many examples are in front."""

    def prompt(self, question: str) -> str:
        """With as many of the examples as fit."""
        for count in range(len(self.examples), 0, -1):
            text = self.layout.prompt(self.examples[:count], question)
            if len(self._whole(text)) <= self.room:
                break
        else:
            count, text = 0, question
        self.used[text] = (question, count)
        return text

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids; prompts without examples are cut as in training."""
        train = self.train
        return [
            self._whole(text)
            if self.used.get(text, ("", 0))[1]
            else encode_prompts(self.tokenizer, [text], train.max_prompt_tokens, train.truncation)[
                0
            ].ids
            for text in prompts
        ]

    def _whole(self, text: str) -> list[int]:
        # TRACE's collator has its own way with special tokens, at any length.
        return encode_prompts(self.tokenizer, [text], ANY_LENGTH, self.train.truncation)[0].ids

    @contextmanager
    def in_front(self) -> Iterator[None]:
        """Until the block ends, the task's prompts have the examples and its answers their ends."""
        task, plain = self.task, self.task.fewshot_context
        before = task.config.generation_kwargs

        def context(doc: Any, *_: Any, **given: Any) -> str:
            return self.prompt(plain(doc, num_fewshot=0, gen_prefix=given.get("gen_prefix")))

        task.fewshot_context = context
        if task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", self.generation(before))
        try:
            yield
        finally:
            del task.fewshot_context
            task.set_config("generation_kwargs", before)

    def generation(self, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
        """`generation_kwargs` of the task with its further ends."""
        until = (kwargs or {}).get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        found = {**(kwargs or {}), "until": list(dict.fromkeys([*stops, *self.ends]))}
        return limited(found, 1) if self.first_token else found

    def recorded(self, result: TaskResult) -> TaskResult:
        """The result, whose records say how many examples their prompts had.

        Their `prompt_hash` is that of the question alone, as the base model is asked it: so the
        two are paired as the same document.
        """
        records = []
        for record, sample in zip(result.records, result.samples, strict=True):
            question, count = self.used[sample["arguments"][0][0]]
            records.append({**record, "prompt_hash": hash_string(question), "shots": count})
        return replace(result, records=records)

    def summary(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What `scores.json` has of the task's examples beside its score."""
        counts = [int(record["shots"]) for record in records]
        return {
            "asked": self.asked,
            "mean": fmean(counts),
            "fewest": min(counts),
            "documents_with_fewer": sum(count < self.asked for count in counts),
            "examples": [one.doc_id for one in self.examples],
            "max_prompt_tokens": self.room,
        }

    def depends_on(self) -> str:
        """A checksum of all that decides the prompts and their ends."""
        texts = [[one.prompt, one.answer] for one in self.examples]
        parts = [self.layout.head, self.layout.lead, self.layout.label, self.layout.between]
        return sha256_of([texts, parts, self.ends, self.first_token, self.room, self.asked])


def positions_of(engine: Engine, config: Any, tokenizer: Any) -> int:
    """The model's window, or the smaller one that the engine is asked to keep to."""
    asked, own = engine.args.get("max_length"), window(config, tokenizer)
    return min(int(asked), own) if asked else own


def _question(task: Any, doc: Any) -> str | None:
    try:
        return own_prompt(task, doc)
    except ValueError:
        return None


def worked_examples(
    task: Any,
    rows: Sequence[Example],
    documents: Sequence[int],
    options: InContext,
    seed: int,
    tokenizer: Any,
    train: TrainConfig,
    window: int,
) -> WorkedExamples:
    """The examples that `options` and the seed choose of a task's training rows.

    `documents` are those that are scored; `window` has the model's positions. There may be fewer
    examples than asked for, which `checks/in_context.py` refuses.
    """
    layout = layout_of(options.layout, task, rows)
    habit = HABITS.get(task.task_name) if options.layout == "trace" else None
    labels: list[str] = []
    if options.balanced and kind_of(task) != "choice_with_reasoning":
        labels = labels_of(task, [])
    docs = task.eval_docs
    scored = {question for i in documents if (question := _question(task, docs[i])) is not None}
    room = options.max_prompt_tokens or window - train.max_answer_tokens
    share = room // (2 * options.shots)

    def short(one: Example) -> bool:
        (ids,) = encode_answers(tokenizer, [layout.worked(one)])
        return len(ids) <= share

    chosen = choose(rows, options.shots, seed, scored, labels, short)
    one_token = all(len(ids) == 1 for ids in encode_answers(tokenizer, labels))
    return WorkedExamples(
        task=task,
        asked=options.shots,
        examples=() if goes_without(options.layout, task.task_name) else tuple(chosen),
        layout=layout,
        ends=tuple(ends_of(options.layout, task, layout, rows)),
        first_token=bool(habit and habit.first_token and labels and one_token),
        tokenizer=tokenizer,
        train=train,
        room=room,
    )
