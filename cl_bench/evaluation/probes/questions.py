"""Which tokens a document's probes ask about: the gold answer and the labels after its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cl_bench.config.schema import TrainConfig
from cl_bench.data.chat import frame_of
from cl_bench.data.examples import Example, answer_text, gold_answer, own_prompt
from cl_bench.data.tokens import encode_answers, encode_examples, encode_prompts
from cl_bench.evaluation.shared_prefix.lm import Pair, SharedPrefixLM

Sample = Mapping[str, Any]
"""What lm-eval keeps of a document: `doc`, `arguments` of its requests, `filtered_resps`, ..."""


@dataclass(frozen=True)
class Question:
    """(context, continuation) as token ids, for a document's gold answer and for each label.

    `gold` is None where the document has none; contexts have at least one token.
    """

    gold: Pair | None
    labels: tuple[Pair, ...] = ()


def stage_questions(
    task: Any, samples: Sequence[Sample], labels: Sequence[str], tokenizer: Any, train: TrainConfig
) -> list[Question]:
    """Of a stage task whose answers are generated, with the tokens of training.

    The gold answer is what `encode_examples` makes of prompt and answer, EOS included, so that
    its negative log-likelihood is the training loss on a held-out document; of a conversation, that
    of its last answer. A label stands without EOS after the prompt that scoring sees: whether the
    answer would end there is format.
    """
    gold = _trained_pairs(task, samples, tokenizer, train)
    if not labels:
        return [Question(pair) for pair in gold]
    prompts, frame = [sample["arguments"][0][0] for sample in samples], frame_of(task)
    limits = (train.max_prompt_tokens, train.truncation)
    contexts = encode_prompts(tokenizer, prompts, *limits, frame)
    questions = []
    for sample, prompt, context, pair in zip(samples, prompts, contexts, gold, strict=True):
        texts = [answer_text(task, sample["doc"], label) for label in labels]
        answers = encode_answers(tokenizer, texts, [prompt] * len(texts) if frame else None)
        questions.append(Question(pair, tuple((context.ids, answer) for answer in answers)))
    return questions


def _trained_pairs(
    task: Any, samples: Sequence[Sample], tokenizer: Any, train: TrainConfig
) -> list[Pair | None]:
    answers = {i: gold_answer(task, sample["doc"]) for i, sample in enumerate(samples)}
    examples = [
        Example(
            *(own_prompt(task, samples[i]["doc"]), answer, i, task.task_name, "generate"),
            frame_of(task),
        )
        for i, answer in answers.items()
        if answer is not None
    ]
    encoded = encode_examples(
        examples, tokenizer, train.max_prompt_tokens, train.max_answer_tokens, train.truncation
    )
    pairs: list[Pair | None] = [None] * len(samples)
    for example, tokens in zip(examples, encoded, strict=True):
        # As in training, the first token of a sequence has no prediction.
        start = max(tokens.prompt_length, 1)
        pairs[example.doc_id] = tokens.input_ids[:start], tokens.input_ids[start:]
    return pairs


def prompted_questions(
    lm: SharedPrefixLM, task: Any, samples: Sequence[Sample], labels: Sequence[str]
) -> list[Question]:
    """Of a benchmark whose answers are generated: after the very prompt of the request.

    The answer is split off as lm-eval does it and has no EOS, since prompts with examples end
    their answers in other ways.
    """
    questions = []
    for sample in samples:
        prompt, doc = sample["arguments"][0][0], sample["doc"]
        answer = gold_answer(task, doc)
        texts = [answer_text(task, doc, label) for label in labels]
        gold = [] if answer is None else lm.encode_pairs([(prompt, answer)])
        options = lm.encode_pairs([(prompt, text) for text in texts])
        questions.append(Question(gold[0] if gold else None, tuple(options)))
    return questions


def gold_choice(task: Any, sample: Sample) -> int | None:
    """Which request of a scored document is the gold one, as lm-eval's accuracy has it.

    The first of several; 0 for `loglikelihood` tasks; None where no choice is gold.
    """
    if task.config.output_type == "loglikelihood":
        return 0
    doc = sample["doc"]
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(gold, list | tuple):
        gold = gold[0] if gold else None
    choices = task.doc_to_choice(doc)
    if isinstance(gold, str):
        gold = choices.index(gold) if gold in choices else None
    return gold if isinstance(gold, int) and 0 <= gold < len(choices) else None
