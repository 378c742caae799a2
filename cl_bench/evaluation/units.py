"""What is scored and kept as a whole: one stage task, or one benchmark of General."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from cl_bench.config.schema import TrainConfig
from cl_bench.data.chat import frame_of
from cl_bench.data.definitions import scoring_depends_on
from cl_bench.data.special_tokens import added_tokens
from cl_bench.data.tokens import encode_prompts
from cl_bench.device_memory import first_line, free_memory, out_of_memory
from cl_bench.errors import RunError
from cl_bench.evaluation.answer_limits import own_limit
from cl_bench.evaluation.crew import Crew, answer_calls, leading
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.kept import Kept
from cl_bench.evaluation.engines.opened import Subject, counted, halve_passes, opened, requests_of
from cl_bench.evaluation.engines.request_counts import EncodePrompts
from cl_bench.evaluation.harness import TaskResult, evaluate_tasks, group_json
from cl_bench.evaluation.in_context import WorkedExamples
from cl_bench.evaluation.probes.tasks import Reference, probe_tasks
from cl_bench.evaluation.shared_prefix.among import PARTS
from cl_bench.evaluation.shared_prefix.lm import Progress, SharedPrefixLM
from cl_bench.evaluation.untouched import untouched
from cl_bench.seeds import derive_seed

SMALLER = (
    "give --engine-args token_budget=256 (engine cl-bench) or batch_size=1 (hf), or leave more "
    "memory free, and run the same command again: what is complete is kept"
)
"""What needs less memory in scoring."""


@dataclass(frozen=True)
class Answer:
    """The results of a unit's leaf tasks, and counts of its requests (`requests_of`)."""

    results: Mapping[str, TaskResult]
    requests: Mapping[str, Any]


@dataclass(frozen=True)
class Unit:
    """Tasks that are answered in one call, so that what their prompts share is computed once."""

    part: Literal["trace", "general"]
    name: str
    tasks: Mapping[str, Any]
    """Leaf tasks: itself, or the members of a group."""
    documents: Mapping[str, Sequence[int]]
    """Document ids by leaf task."""
    train: TrainConfig | None = None
    """How prompts are cut and answers capped; None: as the tasks' YAMLs and lm-eval say."""
    worked: WorkedExamples | None = None
    """Examples in front of the prompts of its one task."""

    @property
    def size(self) -> int:
        """The number of documents."""
        return sum(len(self.documents[name]) for name in self.tasks)

    def entry(self, found: Answer) -> dict[str, Any]:
        """What `scores.json` holds of the results of the leaf tasks."""
        sizes = {leaf: len(task.eval_docs) for leaf, task in self.tasks.items()}
        entry = group_json(found.results, sizes) | {"requests": found.requests}
        if self.worked is not None:
            (result,) = found.results.values()
            entry["shots"] = self.worked.summary(result.records)
        return entry

    def depends_on(self) -> dict[str, Any]:
        """Checksums of documents, shots and task definitions, and the caps.

        Where data lies is no part.
        """
        train = self.train
        prompt = None
        if train is not None:
            prompt = [train.max_prompt_tokens, train.max_answer_tokens, train.truncation]
        found = scoring_depends_on(self.tasks, self.documents, prompt)
        return found | ({} if self.worked is None else {"worked": self.worked.depends_on()})

    def answered(self, lm: Any) -> dict[str, TaskResult]:
        """The results of its tasks, with their worked examples in front where there are some."""
        cap = None if self.train is None else self.train.max_answer_tokens
        if self.worked is None:
            return evaluate_tasks(lm, self.tasks, self.documents, cap)
        with self.worked.in_front():
            found = evaluate_tasks(lm, self.tasks, self.documents, cap)
        return {leaf: self.worked.recorded(result) for leaf, result in found.items()}


@contextmanager
def answering(
    engine: Engine,
    subject: Subject,
    progress: Progress | None = None,
    reference: Reference | None = None,
    say: Callable[[str], None] | None = None,
    kept: Kept | None = None,
    crew: Crew | None = None,
) -> Iterator[Callable[[Unit], Answer]]:
    """A function that gives the results of a unit's leaf tasks; one `LM` serves all its calls.

    With a `reference` the results have their probes, made on the model in memory. Afterwards the
    model and all random states are as they were before. `say` gets a line when prefixes are not
    shared, before anything is scored. `kept`: where a process of an engine waits between scorings.
    `crew`: the processes of which this is the first, and which help meanwhile (`help_answer`).
    """
    model, tokenizer = subject.model, subject.tokenizer
    with ExitStack() as stack:
        stack.enter_context(untouched(model))
        lm = stack.enter_context(opened(engine, subject, progress, kept, say))
        model.eval()
        if say is not None and isinstance(lm, SharedPrefixLM) and (note := lm.note()):
            say(note)
        prober = None
        if reference is not None:
            prober = SharedPrefixLM(model, tokenizer, progress=_named("probes", progress))
        ours = [each for each in (lm, prober) if isinstance(each, SharedPrefixLM)]
        if crew is not None and crew.world > 1 and ours:
            stack.enter_context(leading(crew))
            for each in ours:
                each.crew = crew

        def once(unit: Unit) -> Answer:
            train, before = unit.train, counted(lm)
            lm.encode_prompts = _prompt_encoder(tokenizer, unit)
            # Sampled answers depend on their unit, not on what was scored before it: a scoring
            # that is interrupted ends like one that is not. `untouched` puts the generators back.
            torch.manual_seed(derive_seed("answers", unit.part, unit.name))
            found = unit.answered(lm)
            requests = requests_of(lm, before)
            if prober is not None and reference is not None:
                probes = probe_tasks(prober, unit.tasks, found, train, reference)
                found = {leaf: replace(found[leaf], probes=probes[leaf]) for leaf in found}
            return Answer(found, requests)

        yield lambda unit: _as_large_as_fits(once, unit, (lm, prober), model.device, say)


def help_answer(load: Callable[[], tuple[Any, Any]], crew: Crew) -> None:
    """In the other processes of a crew: their part of one scoring, of the model that `load` gives.

    What passes hold at most the first one tells; `answering` has the rest.
    """
    model, tokenizer = load()
    with untouched(model):
        model.eval()
        lm = SharedPrefixLM(model, tokenizer)
        lm.crew = crew
        answer_calls(crew, lm, PARTS)


def _as_large_as_fits(
    once: Callable[[Unit], Answer],
    unit: Unit,
    lms: Sequence[Any],
    device: torch.device,
    say: Callable[[str], None] | None,
) -> Answer:
    """The answer of `once`; where memory does not suffice, in smaller passes, from the start."""
    halved = 0
    while True:
        try:
            found = once(unit)
            return (
                replace(found, requests={**found.requests, "halved": halved}) if halved else found
            )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            reason = first_line(error)
        smaller = [halve_passes(lm) for lm in lms]
        if not any(smaller):
            raise RunError(f"{unit.name}: out of memory ({reason}); {SMALLER}")
        halved += 1
        free_memory(device)
        if say is not None:
            say(f"{unit.name}: out of memory ({reason}): answered in smaller passes")


def _named(what: str, progress: Progress | None) -> Progress | None:
    return None if progress is None else lambda _, done, total: progress(what, done, total)


def _prompt_encoder(tokenizer: Any, unit: Unit) -> EncodePrompts | None:
    """How the prompts of generation requests become tokens; None: as lm-eval does it."""
    train = unit.train
    added = added_tokens(tokenizer)
    frame = frame_of(next(iter(unit.tasks.values())))
    rooms = [room for task in unit.tasks.values() if (room := _prompt_tokens(task)) is not None]

    def as_in_training(prompts: Sequence[str]) -> list[list[int]]:
        assert train is not None
        limits = (train.max_prompt_tokens, train.truncation)
        encoded = encode_prompts(tokenizer, prompts, *limits, frame)
        return [prompt.ids for prompt in encoded]

    def cut(prompts: Sequence[str]) -> list[list[int]]:
        return [added.without_end(tokenizer.encode(prompt))[-min(rooms) :] for prompt in prompts]

    if unit.worked is not None:
        return unit.worked.encode
    if train is not None:
        return as_in_training
    return cut if rooms else None


def _prompt_tokens(task: Any) -> int | None:
    """Tokens of a prompt at most, where the YAML's `metadata: {window: ...}` limits all of them."""
    window = (task.config.metadata or {}).get("window")
    if window is None or task.OUTPUT_TYPE != "generate_until":
        return None
    return int(window) - own_limit(task.config.generation_kwargs, SharedPrefixLM.max_gen_toks)
