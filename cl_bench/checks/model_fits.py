"""Whether the data fits the model: token ids that it knows, positions that it has.

Checks of `preflight`; the model is there without its weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cl_bench.config.schema import TrainConfig
from cl_bench.data.chat import frame_of
from cl_bench.data.examples import Example, gold_answer, own_prompt
from cl_bench.data.tokens import encode_examples, encode_prompts
from cl_bench.models.load import embedding_rows
from cl_bench.models.positions import window

if TYPE_CHECKING:
    from cl_bench.checks.found import Preflight

MAX_NEW_TOKENS = 256
"""Of a generation whose task names no number (lm-eval's default)."""


def check_token_ids(found: Preflight) -> Iterator[str]:
    """Tokens in the data that the model has no embedding of, by task; a fault for each token."""
    rows = embedding_rows(found.skeleton)
    strange = {i: token for token, i in found.tokenizer.get_vocab().items() if i >= rows}
    if not strange:
        return
    for where, texts in _all_texts(found):
        counts: dict[int, int] = {}
        for ids in _encoded(found.tokenizer, texts):
            for i in strange.keys() & set(ids):
                counts[i] = counts.get(i, 0) + 1
        for i, count in sorted(counts.items()):
            yield (
                f"{where}: {count} of {len(texts)} hold {strange[i]!r}, token id {i}, but the "
                f"model has embeddings of ids below {rows} only: give it more "
                "(resize_token_embeddings, then save_pretrained) or take the token out of the "
                "tokenizer or the data"
            )


def _encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]
    return ids


def _all_texts(found: Preflight) -> Iterator[tuple[str, list[str]]]:
    """Prompts with their answers: what is trained on and what is scored."""
    for task, examples in _trained_on(found).items():
        yield f"{task}: training examples", [e.prompt + e.answer for e in examples]
    leaves = found.suite.leaves
    for name, documents in found.suite.documents.items():
        docs = leaves[name].eval_docs
        yield f"{name}: documents", [_whole_text(leaves[name], docs[i]) for i in documents]


def _trained_on(found: Preflight) -> dict[str, list[Example]]:
    """By task, the examples of all seeds; nothing where no method trains."""
    if not found.runs:
        return {}
    examples: dict[str, dict[Example, None]] = {}
    for (task, _, _), some in found.examples.items():
        examples.setdefault(task, {}).update(dict.fromkeys(some))
    return {task: list(some) for task, some in examples.items()}


def _whole_text(task: Any, doc: Any) -> str:
    """The prompt with every choice, else with the gold answer; a document without a prompt as is.

    Shots are left out: they come from other rows of the same kind.
    """
    try:
        choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else None
        rest = "".join(map(str, choices)) if choices else (gold_answer(task, doc) or "")
        return own_prompt(task, doc) + rest
    except Exception:  # a task of a Python class, an input that its fields do not fit
        return str(doc)


def check_window(found: Preflight) -> Iterator[str]:
    """Sequences that are longer than the model's window, and answers that leave no room in it.

    Training would go beyond the positions that the model has, or see what scoring cuts.
    """
    # A smaller window that the user asks of the engine cuts what is scored, and the report says so.
    asked = int(found.suite.engine.args.get("max_length") or 0)
    limit = max(asked, window(found.skeleton.config, found.tokenizer))
    yield from _training_beyond(found, limit)
    yield from _scoring_beyond(found, limit)
    for name, task in _general_leaves(found).items():
        new = _new_tokens(task)
        if new is not None and new >= limit:
            yield (
                f"eval.general.tasks: {name} generates up to {new} tokens, which leaves no room "
                f"for a prompt in the model's window of {limit}"
            )


def _training_beyond(found: Preflight, limit: int) -> Iterator[str]:
    asked: dict[tuple[str, int | None, int, tuple[int, int, str]], TrainConfig] = {}
    for run in found.runs:
        for stage in run.stages:
            for task, most in stage.sets:
                asked[task, most, run.seed, _cut(stage.train)] = stage.train
    for (task, most, seed, _), train in asked.items():
        if train.max_prompt_tokens + train.max_answer_tokens + 1 <= limit:
            continue
        encoded = encode_examples(
            found.examples[task, most, seed],
            found.tokenizer,
            train.max_prompt_tokens,
            train.max_answer_tokens,
            train.truncation,
        )
        yield from _too_long(
            f"{task}: training examples (prompt, answer, EOS)",
            [len(item) for item in encoded],
            train,
            limit,
        )


def _scoring_beyond(found: Preflight, limit: int) -> Iterator[str]:
    """Stage tasks whose answers are generated: the prompt must leave room for the answer."""
    trains = [found.config.train, *(s.train for run in found.runs for s in run.stages)]
    for train in {_cut(train): train for train in trains}.values():
        prompt, answer = train.max_prompt_tokens, train.max_answer_tokens
        for name in found.suite.columns:
            task = found.suite.stage_tasks[name]
            if task.config.output_type != "generate_until" or prompt + answer <= limit:
                continue
            if answer >= limit:
                yield (
                    f"train.max_answer_tokens: {answer} leaves no room for a prompt in the model's "
                    f"window of {limit} tokens"
                )
                continue
            texts = _prompts(task, found.suite.documents[name])
            frame = frame_of(task)
            encoded = encode_prompts(found.tokenizer, texts, prompt, train.truncation, frame)
            lengths = [len(one.ids) + answer for one in encoded]
            where = f"{name}: scored documents (prompt, max_answer_tokens)"
            yield from _too_long(where, lengths, train, limit)


def _prompts(task: Any, documents: Iterable[int]) -> list[str]:
    docs, found = task.eval_docs, []
    for i in documents:
        try:
            found.append(own_prompt(task, docs[i]))
        except ValueError:
            continue
    return found


def _too_long(where: str, lengths: Sequence[int], train: TrainConfig, limit: int) -> Iterator[str]:
    longer = sum(length > limit for length in lengths)
    if longer:
        room = limit - train.max_answer_tokens - 1
        remedy = (
            f"set it to {room} or less"
            if room > 0
            else f"set train.max_answer_tokens below {limit - 1}"
        )
        yield (
            f"train.max_prompt_tokens: {train.max_prompt_tokens} (with max_answer_tokens "
            f"{train.max_answer_tokens}) is more than the model's window of {limit} tokens holds: "
            f"{where}: {longer} of {len(lengths)} are longer, up to {max(lengths)} tokens; {remedy}"
        )


def _cut(train: TrainConfig) -> tuple[int, int, str]:
    return train.max_prompt_tokens, train.max_answer_tokens, train.truncation


def _general_leaves(found: Preflight) -> Mapping[str, Any]:
    return {
        leaf: task for members in found.suite.general.values() for leaf, task in members.items()
    }


def _new_tokens(task: Any) -> int | None:
    """How many tokens a task lets a model write; None where it writes nothing."""
    from lm_eval.models.utils import normalize_gen_kwargs

    if task.OUTPUT_TYPE != "generate_until":
        return None
    kwargs = dict(task.config.generation_kwargs or {})
    return int(normalize_gen_kwargs(kwargs, MAX_NEW_TOKENS)["max_gen_toks"])
