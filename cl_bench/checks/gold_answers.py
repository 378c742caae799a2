"""Before a run: what its answers lose on their way through tokens, stop strings and metrics.

Every stage task whose answers are generated passes its own gold answers through scoring. Where
they would lose more than a tenth of the score (half of it, where a limit of tokens cuts them and
leaves each a part) the task is refused, unless `allow_unreachable` says otherwise; smaller losses
and all else that is odd about answers is said, and is in the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from cl_bench.checks.perfect_generation import Generator, generator, model_eos
from cl_bench.checks.reachable import Gold, Loss, Reach, gold_of, reach
from cl_bench.config.schema import ExperimentConfig
from cl_bench.data.choices import empty_choice
from cl_bench.data.examples import Example, seeded_subset
from cl_bench.data.special_tokens import SpecialTokens, added_tokens, named
from cl_bench.data.tasks import defining_file
from cl_bench.data.tokens import encode_answers, encode_prompts
from cl_bench.errors import UserError

if TYPE_CHECKING:
    from cl_bench.checks.found import Preflight

MOST = 1000
"""Documents of a split that are looked at, a seeded sample."""
MOST_PROMPTS = 100
"""Prompts that are encoded to see whether they lose their BOS."""
NEEDED = 0.9
"""The part of the full score that perfect answers must reach."""
NEEDED_OF_CUT = 0.5
"""The same where a limit of tokens takes the rest: summaries are cut on purpose, to save time."""
TEXT = 60
"""Characters of a text in a message."""
OF_SCORING = ("filter", "metric")
"""Causes that may be the metric's own way with training documents, which are never scored."""


def check_answers(found: Preflight) -> Iterator[str]:
    """Faults of stage tasks whose gold answers lose their score; the rest is said and noted."""
    if fault := _engine_fault(found):
        yield fault
    for name, task in found.suite.leaves.items():
        if fault := empty_choice(task, found.suite.documents.get(name, ())):
            yield fault
    eos = model_eos(found.model_path)
    allowed = {task.name: task.allow_unreachable for task in found.experiment.tasks}
    for name, task in found.suite.stage_tasks.items():
        examples = found.trained_on(name, found.config.seeds[0])
        limit = _answer_limit(found, name)
        for line in _about_examples(found, name, examples, limit):
            found.note(line)
        if task.OUTPUT_TYPE != "generate_until":
            continue
        perfect = generator(task, found.tokenizer, eos, limit)
        fault = _unreachable(found, name, examples, perfect)
        if fault and (allowed[name] or found.config.allow_unreachable):
            found.note(f"{fault} (accepted by allow_unreachable)")
        elif fault:
            yield f"{fault}, or accept it with `allow_unreachable: true`"


def _engine_fault(found: Preflight) -> str | None:
    after = added_tokens(found.tokenizer).after
    if not after or found.suite.engine.in_memory:
        return None
    tokens = named([found.tokenizer.decode([token]) for token in after])
    return (
        f"--engine {found.suite.engine}: the model's tokenizer puts {tokens} behind every text, "
        "and an engine in a process of its own would end every prompt with it: use cl-bench or hf"
    )


def _answer_limit(found: Preflight, name: str) -> int:
    """The smallest `max_answer_tokens` under which a task is trained or scored afterwards."""
    limits = [found.config.train.max_answer_tokens]
    for run in found.runs:
        own = [i for i, stage in enumerate(run.stages) if name in stage.tasks]
        limits += [run.stages[i].train.max_answer_tokens for i in own]
        limits += [
            stage.train.max_answer_tokens
            for stage in run.stages[own[0] if own else 0 :]
            if name in stage.scored.columns
        ]
    return min(limits[1:] or limits)


def _about_examples(
    found: Preflight, name: str, examples: Sequence[Example], limit: int
) -> Iterator[str]:
    """What is odd about a task's training examples: lost ends, special tokens, empty answers."""
    some = sample(examples, name)
    tokenizer, special = found.tokenizer, SpecialTokens(found.tokenizer)
    answers, of = [example.answer for example in some], f"of {len(some)} training answers"
    lost = sum(len(ids) > limit for ids in encode_answers(tokenizer, answers))
    if lost and _cut_jointly(found, name):
        yield f"{name}: {lost} {of} are longer than a generation: max_answer_tokens {limit}"
    elif lost:
        yield (
            f"{name}: {lost} {of} lose their end: max_answer_tokens {limit}; "
            "nothing is learned of their rest, nor where they end"
        )
    if empty := sum(not answer for answer in answers):
        yield f"{name}: {empty} {of} are empty: EOS alone is trained"
    if blank := sum(bool(answer) and not answer.strip() for answer in answers):
        yield f"{name}: {blank} {of} are blank"
    holding, tokens = special.count(answers)
    if holding:
        yield f"{name}: {holding} {of} hold special tokens ({named(tokens)})"
    begin = tokenizer.bos_token or ""
    prompts = [_question(example).lstrip().removeprefix(begin) for example in some]
    holding, tokens = special.count(prompts)
    if holding:
        yield (
            f"{name}: {holding} of {len(some)} training prompts hold special tokens "
            f"({named(tokens)}), which the model reads as such"
        )
    yield from _about_bos(found, name, some)


def _question(example: Example) -> str:
    """The prompt without what a chat template puts around it."""
    if (frame := example.frame) is None:
        return example.prompt
    return example.prompt.removeprefix(frame.head).removesuffix(frame.tail)


def _cut_jointly(found: Preflight, name: str) -> bool:
    """TRACE's collator limits prompt and answer together, on their left."""
    stages = [stage for run in found.runs for stage in run.stages if name in stage.tasks]
    return all(stage.train.truncation == "trace" for stage in stages)


def _about_bos(found: Preflight, name: str, examples: Sequence[Example]) -> Iterator[str]:
    """Prompts that are cut lose the BOS, as in lm-eval; TRACE's collator doubles one."""
    before, some = added_tokens(found.tokenizer).before, examples[:MOST_PROMPTS]
    stages = [stage for run in found.runs for stage in run.stages if name in stage.tasks]
    for train in list({s.train.truncation: s.train for s in stages}.values()) if before else ():
        texts = [example.prompt for example in some]
        limits = (train.max_prompt_tokens, train.truncation)
        encoded = encode_prompts(found.tokenizer, texts, *limits, some[0].frame)
        twice = sum(tuple(one.ids[:2]) == before * 2 for one in encoded)
        if len(before) == 1 and twice:
            yield (
                f"{name}: {twice} of {len(some)} training prompts begin with BOS twice: their own, "
                f"and that of truncation: {train.truncation} (as TRACE's collator has it)"
            )
        lost = sum(one.truncated > 0 and tuple(one.ids[: len(before)]) != before for one in encoded)
        if lost and train.truncation != "trace":
            yield (
                f"{name}: {lost} of {len(some)} training prompts are longer than "
                f"max_prompt_tokens {train.max_prompt_tokens} and lose their BOS with their "
                "beginning, as in lm-eval"
            )


def _unreachable(
    found: Preflight, name: str, examples: Sequence[Example], perfect: Generator
) -> str | None:
    """Why perfect answers cannot get the task's score; None where they can, or it is not scored."""
    if name not in found.suite.documents or not _is_scored(found.config):
        return None
    task = found.suite.stage_tasks[name]
    scored = list(found.suite.documents[name])
    ids = [*sample(scored, name), *sample(range(len(task.eval_docs)), name)]
    test = golds_of(task, task.eval_docs, islice(dict.fromkeys(ids), MOST))
    try:
        reached = reach(task, test, perfect)
    except UserError:  # it has no score: `score_checks` says so
        return None
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return f"{name}: its metric fails on gold answers ({said})"
    if fault := _judged(found, name, "test", reached):
        return fault
    documents = task.training_docs()
    train = golds_of(task, documents, [example.doc_id for example in sample(examples, name)])
    try:
        reached = reach(task, train, perfect)
    except Exception:  # rows to train on need not be rows to score
        return None
    reached.losses = [loss for loss in reached.losses if loss.cause not in OF_SCORING]
    return _judged(found, name, "training", reached) if reached.losses else None


def _judged(found: Preflight, name: str, split: str, reached: Reach) -> str | None:
    """A fault where too little can be reached; a smaller loss is noted."""
    if not reached.checked:
        return None
    if reached.full <= 0 and not reached.lower_is_better:
        return (
            f"{name}: its metric {reached.metric} gives 0 to every gold answer of "
            f"{reached.checked} {split} documents: nothing that is learned can be seen"
        )
    if not reached.losses:
        return None
    file = defining_file(name, found.config.task_paths)
    said = told(reached, split, "the task's YAML" if file is None else str(file))
    if reached.share < NEEDED_OF_CUT or reached.share_if_long_enough < NEEDED:
        return f"{name}: {said}"
    found.note(f"{name}: {said}")
    return None


def told(reached: Reach, split: str, file: str, trained: bool = True) -> str:
    """What is lost, why, an example of it and the remedy."""
    cause = reached.causes[0]
    loss = next(loss for loss in reached.losses if loss.cause == cause)
    answer, given = _around(loss.answer, loss.given)
    also = "".join(f", also by {other}" for other in reached.causes[1:])
    return (
        f"{len(reached.losses)} of {reached.checked} gold answers of {split} documents lose score, "
        f"so that {reached.share:.1%} of {reached.metric} can be reached{also}; {split} document "
        f"{loss.doc_id}: {_why(loss)}: {answer!r} becomes {given!r} "
        f"({loss.score:.3g} instead of {loss.full:.3g}); {_remedy(loss, file, trained)}"
    )


def _why(loss: Loss) -> str:
    return {
        "delimiter": f"target_delimiter {loss.detail!r} is trained and generated before the answer",
        "token": f"the answer holds the special token {loss.detail}",
        "tokenizer": "the tokenizer does not give the answer back",
        "until": f"the answer holds the stop string {loss.detail}",
        "limit": f"the answer is cut ({loss.detail})",
        "filter": f"the filter '{loss.detail}' changes the answer",
    }[loss.cause]


def _remedy(loss: Loss, file: str, trained: bool) -> str:
    own = "" if trained else f" in {file}"
    limit = "train.max_answer_tokens, or " if trained else ""
    return {
        "delimiter": (
            f'set `target_delimiter: ""` in {file} (with the space in doc_to_text if one is '
            "wanted), or add a `remove_whitespace` filter"
        ),
        "token": ("take it out of the answers: it ends a generation, or is left out of its text"),
        "tokenizer": "score in a way that allows for it, or use another tokenizer",
        "until": f"take it out of generation_kwargs.until in {file}, or out of the answers",
        "limit": f"raise {limit}generation_kwargs.max_gen_toks{own or ' of the YAML'}",
        "filter": f"make filter_list in {file} find the answer, or train on what it finds",
    }[loss.cause]


def _around(answer: str, given: str) -> tuple[str, str]:
    """Both texts near the first place where they differ."""
    pairs = zip(answer, given, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(answer), len(given)))
    start = max(0, same - TEXT // 2) if max(len(answer), len(given)) > TEXT else 0

    def shown(text: str) -> str:
        more = "..." if len(text) > start + TEXT else ""
        return ("..." if start else "") + text[start : start + TEXT] + more

    return shown(answer), shown(given)


def golds_of(task: Any, documents: Any, ids: Iterable[int]) -> list[Gold]:
    """The documents with these ids that have a gold answer."""
    golds = (gold_of(task, documents[i], i) for i in ids)
    return [gold for gold in golds if gold is not None]


def sample(items: Sequence[Any], name: str) -> list[Any]:
    """At most `MOST` of a task's items, the same in every call."""
    return [items[i] for i in seeded_subset(len(items), MOST, 0, "gold", name)]


def _is_scored(config: ExperimentConfig) -> bool:
    return config.eval.trace.after != "never" or config.eval.within_stage is not None
