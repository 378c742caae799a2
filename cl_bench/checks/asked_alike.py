"""Training, base model and stages that are not asked in the same form: said, not refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cl_bench.checks.asked_data import shot_faults
from cl_bench.checks.gold_answers import sample
from cl_bench.config.schema import TrainConfig
from cl_bench.data.chat import TURNS, Chat, chat_of
from cl_bench.data.learned_turns import answers_before
from cl_bench.data.tokens import encode_examples

if TYPE_CHECKING:
    from cl_bench.checks.found import Preflight
    from cl_bench.data.examples import Example

CUTS = ("max_prompt_tokens", "max_answer_tokens", "truncation")
"""Keys of `train:` that decide what is left of a prompt and of an answer, in scoring too."""

LOOKED_AT = 64
"""Training conversations that are rendered whole."""


def note_forms(found: Preflight) -> Iterator[str]:
    """No faults; notes what a reader of the report would not expect."""
    chat = next((c for task in found.suite.leaves.values() if (c := chat_of(task))), None)
    if chat is not None:
        for line in _of_chat(found, chat):
            found.note(line)
    elif getattr(found.tokenizer, "chat_template", None):
        found.note(
            "the tokenizer has a chat template, which is not used: prompts are the plain text that "
            "the tasks define, in training and in scoring"
        )
    possible = not any(shot_faults(found))  # else there are no such prompts to look at
    for line in [*_settings(found), *(_shots(found) if possible else ())]:
        found.note(line)
    return iter(())


def _of_chat(found: Preflight, chat: Chat) -> Iterator[str]:
    """In which form everything is asked, and where training is not what the template renders."""
    system = ", with a system text" if chat.system is not None else ""
    turns = "in turns of their own" if chat.multiturn else "in one turn"
    yield (
        f"prompts are in the chat template{system}, in training and in scoring; worked examples "
        f"stand {turns}"
    )
    if not chat.frame.end.strip():
        yield "the chat template ends an answer with no token of its own: EOS ends it in training"
    for name, task in found.suite.stage_tasks.items():
        yield from _of_turns(found, name, task)
        differing = _rendered_otherwise(found, chat, name, task)
        if differing:
            yield (
                f"{name}: {differing} training conversations are rendered otherwise by the chat "
                "template when they are whole (it changes answers, or what stands before them): "
                "they are trained as they are asked, with the answer behind"
            )


def _of_turns(found: Preflight, name: str, task: Any) -> Iterator[str]:
    """How many answers in the midst of conversations are learned, and why some are not."""
    examples = next((own for key, own in found.examples.items() if key[0] == name), ())
    documents: Any = task.training_docs() if task.has_training_docs() else None
    if not examples or TURNS not in getattr(documents, "column_names", ()):
        return
    roles = ([turn["role"] for turn in documents[one.doc_id][TURNS]] for one in examples)
    there = sum(len(answers_before(own)) for own in roles)
    learned = sum(len(one.learned) for one in examples)
    if there:
        found.say(f"{name}: {learned:,} earlier answers of its conversations are learned too")
    if learned < there:
        yield (
            f"{name}: {there - learned:,} of {there:,} earlier answers are not learned: the chat "
            "template renders them otherwise once other turns follow"
        )
    yield from _cut_turns(found, name, [one for one in sample(examples, name) if one.learned])


def _cut_turns(found: Preflight, name: str, examples: Sequence[Example]) -> Iterator[str]:
    """What limits of tokens take of conversations."""
    some = examples[:LOOKED_AT]
    there = sum(len(one.learned) for one in some)
    stages = (stage for run in found.runs for stage in run.stages if name in stage.tasks)
    for room in dict.fromkeys(stage.train.max_prompt_tokens for stage in stages) if some else ():
        encoded = encode_examples(some, found.tokenizer, room, room, "left")
        if cut := sum(one.lost_turns for one in encoded):
            yield (
                f"{name}: conversations of more than max_prompt_tokens ({room}) lose their oldest "
                f"turns: in a sample {cut} of {there} earlier answers are cut and not learned"
            )


def _rendered_otherwise(found: Preflight, chat: Chat, name: str, task: Any) -> str:
    """Of a sample how many are, as `n of m`; "" for none."""
    keys = [key for key in found.examples if key[0] == name]
    some = sample(found.examples[keys[0]], name)[:LOOKED_AT] if keys else []
    differ = 0
    for example in some:
        frame = example.frame
        if frame is None or example.kind != "generate" or task.config.gen_prefix:
            continue
        question = example.prompt.removeprefix(frame.head).removesuffix(frame.tail)
        if frame.tail in question:  # of several turns, which one question cannot stand for
            continue
        whole = chat.whole(question, example.answer)
        differ += not whole.startswith(example.prompt + example.answer + frame.end)
    return f"{differ} of {len(some)}" if differ else ""


def _settings(found: Preflight) -> Iterator[str]:
    """Stages that cut otherwise than the base model is cut, all methods that do together."""
    if not found.suite.columns:
        return
    labels: dict[tuple[str, str], dict[str, None]] = {}
    for run in found.runs:
        for stage in run.stages:
            if changed := _changed(found.config.train, stage.train):
                where = f"stage {stage.index} ({' + '.join(stage.tasks)})"
                labels.setdefault((where, changed), {})[run.label] = None
    for (where, changed), methods in labels.items():
        yield (
            f"{where} of {', '.join(methods)}: trained and scored with {changed}: scores of stage "
            "tasks after it and of the base model are not of the same prompts"
        )


def _changed(base: TrainConfig, own: TrainConfig) -> str:
    return ", ".join(
        f"{key} {getattr(own, key)} (the base model: {getattr(base, key)})"
        for key in CUTS
        if getattr(own, key) != getattr(base, key)
    )


def _shots(found: Preflight) -> Iterator[str]:
    """Stage tasks that are scored behind worked examples, which training does not have."""
    trains = [found.config.train, *(stage.train for run in found.runs for stage in run.stages)]
    room = min(train.max_prompt_tokens for train in trains)
    for name in found.suite.columns:
        task = found.suite.stage_tasks[name]
        shots = int(task.config.num_fewshot or 0)
        if not shots:
            continue
        yield (
            f"{name}: scored with {shots} worked examples in the prompt (num_fewshot), trained "
            "without any: set num_fewshot: 0 to train and score in one form"
        )
        if shots_are_scored(task.config):
            yield (
                f"{name}: its worked examples are documents that are scored, so that their answers "
                "stand in the prompts of others: set fewshot_split to another split"
            )
        if task.OUTPUT_TYPE == "generate_until":
            documents = found.suite.documents[name]
            cut = sum(_tokens(found, task, document) > room for document in documents)
            if cut:
                yield (
                    f"{name}: {cut} of {len(documents)} prompts with their worked examples have "
                    f"more than max_prompt_tokens ({room}) and are cut"
                )


def shots_are_scored(config: Any) -> bool:
    """Whether a task's worked examples come from the split that is scored."""
    given = config.fewshot_config  # as in the YAML, or lm-eval's object of it
    samples = given.get("samples") if isinstance(given, dict) else getattr(given, "samples", None)
    if config.fewshot_split is None or samples:
        return False  # written in the YAML, or of the training split, which a stage task has
    return bool(config.fewshot_split == (config.test_split or config.validation_split))


def _tokens(found: Preflight, task: Any, document: int) -> int:
    doc = task.eval_docs[document]
    shots = int(task.config.num_fewshot)
    prompt = task.fewshot_context(doc=doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc))
    return len(found.tokenizer(prompt)["input_ids"])
