"""A stage from files as a task of lm-evaluation-harness that stands in no YAML.

What it makes is loaded, trained, scored and compared like every other task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from cl_bench.data.hub import dataset_of
from cl_bench.data.learned_turns import answers_before
from cl_bench.data.own_files.conversation import (
    NEXT_TURN,
    Conversation,
    answer_of,
    conversation_prompt,
    pair_prompt,
)
from cl_bench.data.own_files.forms import Form, forms_of, known_forms, read_row
from cl_bench.data.own_files.holdout import again, split_off
from cl_bench.data.own_files.metrics import labels_in, metrics_for, scored_answer
from cl_bench.data.own_files.reading import Row, Source, read_source
from cl_bench.data.rows import first_faults, ranges
from cl_bench.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

MOST_TOKENS = 512
"""Of an answer, whatever its rows say; `max_answer_tokens` is a limit too."""
ROOM = 8
"""Tokens that an answer may take beyond one for each byte: what a tokenizer puts around it."""


@dataclass(frozen=True)
class StageData:
    """What a stage says of its rows; paths are absolute."""

    data: str
    test: str | None = None
    holdout: float | int | None = None
    metrics: tuple[str, ...] = ()
    """The first is the score; none: as the answers' form asks."""


@dataclass(frozen=True)
class OwnTask:
    """A task made of files."""

    config: dict[str, Any]
    """As `TaskManager.load` takes it."""
    fact: str
    """What was recognised, in a line."""
    oddities: list[str] = field(default_factory=list)
    """What a reader of the report should know."""
    learned: frozenset[int] = frozenset()
    """Hashes of the prompts that are trained on, good in this process alone."""
    asked: tuple[int, ...] = ()
    """The same of the scored rows."""


@dataclass(frozen=True)
class _Read:
    """Sound rows of one form."""

    kind: str
    form: Form
    splits: Mapping[str, list[Conversation]]


def own_task(name: str, given: StageData, scored: bool) -> OwnTask:
    """Reads, checks and splits the rows. Raises UserError with every fault of all files."""
    read, faults = _attempt(given.data, None)
    test: _Read | None = None
    if given.test is not None:
        test, more = _attempt(given.test, None if read is None else read.form)
        faults += more
    if read is None or faults:
        raise UserError(list(dict.fromkeys(faults)))
    train, tests, where = _sides(given, read, test, scored)
    names = given.metrics or metrics_for([row.answer for row in train])
    config = _config(name, read.form, train, tests, names)
    fact = _fact(name, given, read, len(train), len(tests), where, names[0])
    learned = frozenset(hash(question) for row in train for question in row.questions)
    asked = tuple(hash(row.question) for row in tests)
    return OwnTask(config, fact, _oddities(name, train, tests), learned, asked)


def training_pairs(made: OwnTask) -> list[tuple[str, str]]:
    """(prompt, answer) of every row that is trained on."""
    config = made.config
    documents = config["custom_dataset"]()["train"]
    return [(config["doc_to_text"](doc), config["doc_to_target"](doc)) for doc in documents]


def earlier_answers(made: OwnTask) -> list[list[str]]:
    """Of every row that is trained on, what is learned beside its answer in a chat template."""
    turns = [doc["turns"] for doc in made.config["custom_dataset"]()["train"]]
    return [
        [own[i]["content"] for i in answers_before([turn["role"] for turn in own])] for own in turns
    ]


def _attempt(given: str, form: Form | None) -> tuple[_Read | None, list[str]]:
    try:
        return _conversations(read_source(given), form), []
    except UserError as error:
        return None, list(error.faults)


def _conversations(source: Source, form: Form | None) -> _Read:
    """The rows of a source. `form`: what they must have; None: that of the first row."""
    every = [row for rows in source.splits.values() for row in rows]
    form = form or _form_of(every[0])
    splits: dict[str, list[Conversation]] = {split: [] for split in source.splits}
    found: dict[tuple[str, str, str], list[int]] = {}
    for split, rows in source.splits.items():
        for row in rows:
            read = _read(row, form)
            if isinstance(read, Conversation):
                splits[split].append(read)
                continue
            for fault in read:
                found.setdefault((row.file, row.unit, fault), []).append(row.number)
    faults: dict[str, list[str]] = {}
    for (file, unit, fault), numbers in found.items():
        faults.setdefault(file, []).append(f"{file}: {unit} {ranges(numbers)}: {fault}")
    if faults:
        raise UserError([line for file, own in faults.items() for line in first_faults(own, file)])
    return _Read(source.kind, form, splits)


def _form_of(row: Row) -> Form:
    place = f"{row.file}: {row.unit} {row.number}"
    fit = forms_of(row.value) if isinstance(row.value, dict) else []
    if len(fit) == 1:
        return fit[0]
    if fit:
        several = " and ".join(form.name for form in fit)
        raise UserError(f"{place}: its columns fit {several}: keep those of one form")
    there = ", ".join(list(row.value)[:8]) if isinstance(row.value, dict) else ""
    raise UserError(
        f"{place}: of no known form ({f'it has {there}' if there else 'not an object'}); "
        f"known: {known_forms()}"
    )


def _read(row: Row, form: Form) -> Conversation | list[str]:
    """A row of the form, or its faults; one that has another form instead says which."""
    value = row.value
    other = isinstance(value, dict) and not value.keys() >= set(form.columns)
    if other and (names := [each.name for each in forms_of(value)]):
        return [f"a row of the form {names[0]}, among rows of the form {form.name}"]
    return read_row(value, form)


def _sides(
    given: StageData, read: _Read, test: _Read | None, scored: bool
) -> tuple[list[Conversation], list[Conversation], str]:
    """The rows to train on, those to score, and where the latter come from."""
    train = read.splits.get("train", [])
    if not train:
        raise UserError(f"{given.data}: data: no rows to train on, only test files")
    if test is not None:
        return train, [row for rows in test.splits.values() for row in rows], str(given.test)
    if given.holdout is not None:
        kept, held = split_off(train, given.holdout, given.data)
        return [train[i] for i in kept], [train[i] for i in held], f"holdout: {given.holdout}"
    for split in ("test", "validation"):
        if rows := read.splits.get(split):
            return train, rows, f"its split {split}"
    if scored:
        raise UserError(
            f"{given.data}: data: nothing to score it on: name a file with test:, keep rows from "
            "training with holdout: 0.1, or give score: false"
        )
    return train, [], "nothing"


def _config(
    name: str,
    form: Form,
    train: Sequence[Conversation],
    tests: Sequence[Conversation],
    metrics: Sequence[str],
) -> dict[str, Any]:
    answers = [row.answer.strip() for row in (*train, *tests)]
    longest = max(len(answer.encode()) for answer in answers)
    splits = {"train": _dataset(train), **({"test": _dataset(tests)} if tests else {})}
    metadata: dict[str, Any] = {"version": 1.0, "form": form.name, "headline": metrics[0]}
    if labels := labels_in([row.answer for row in train]):
        metadata["labels"] = labels
    return {
        "task": name,
        "custom_dataset": lambda **_: splits,
        "training_split": "train",
        # lm-evaluation-harness insists on rows to score, of a stage that only trains too
        **({"test_split": "test"} if tests else {"validation_split": "train"}),
        "output_type": "generate_until",
        "num_fewshot": 0,
        "doc_to_text": conversation_prompt if form.chat else pair_prompt,
        "doc_to_target": answer_of,
        "target_delimiter": "",
        "generation_kwargs": {
            "until": _stops(form, answers),
            "do_sample": False,
            "max_gen_toks": min(MOST_TOKENS, longest + ROOM),
        },
        "process_results": partial(scored_answer, names=tuple(metrics)),
        "metric_list": [
            {"metric": each, "aggregation": "mean", "higher_is_better": True} for each in metrics
        ],
        "metadata": metadata,
    }


def _stops(form: Form, answers: Sequence[str]) -> list[str]:
    """Where an answer is over, besides the end token: only what no answer has in it."""
    if not any("\n" in answer for answer in answers):
        return ["\n"]
    return [NEXT_TURN] if form.chat and not any(NEXT_TURN in each for each in answers) else []


def _dataset(rows: Sequence[Conversation]) -> Dataset:
    return dataset_of([row.document() for row in rows])


def _fact(
    name: str, given: StageData, read: _Read, train: int, tests: int, where: str, score: str
) -> str:
    """What was recognised, in a line."""
    scored = f", {tests:,} scored ({where}) by {score}" if tests else ", not scored"
    rows = f"{train:,} rows trained on{scored}"
    return f"{name}: {given.data}: {read.kind} of the form {read.form.name}; {rows}"


def _oddities(name: str, train: Sequence[Conversation], tests: Sequence[Conversation]) -> list[str]:
    """Prompts that come again, and those that are both learned and scored."""
    found = []
    if times := again(train):
        found.append(f"{name}: {times:,} of {len(train):,} training rows repeat an earlier prompt")
    learned = {question for row in train for question in row.questions}
    if both := sum(row.question in learned for row in tests):
        found.append(f"{name}: {both:,} of {len(tests):,} scored prompts are trained on too")
    return found
