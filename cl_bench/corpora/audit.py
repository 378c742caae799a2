"""What a task's data does to its scores: repetition, leakage, contradictions, balance, lengths.

Two examples are "the same prompt" when the prompt strings are equal, character for character.
Counts of prompts are counts of *distinct* prompts, counts of rows are of rows; both are given,
since they differ (NumGLUE-ds: 32 distinct test prompts are in train, which are 34 of 325 rows).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from statistics import median

from cl_bench.corpora.oddities import Oddities, oddities
from cl_bench.corpora.registry import FOLDERS, SPLITS
from cl_bench.corpora.token_lengths import Cut, TextLengths, TokenBudget
from cl_bench.corpora.verify import trace_folder
from cl_bench.data.rows import Row, trace_rows
from cl_bench.data.sources import trace_file
from cl_bench.errors import UserError

PERCENTILES = (50, 90, 95, 99, 100)
_FIRST_CHARACTER = frozenset({"ScienceQA"})  # TRACE scores this task by the answer's first letter
_MAX_LABELS = 20  # listed; the rest are counted


@dataclass(frozen=True)
class Repetition:
    """How often one split repeats itself. `duplicate_rows` = rows - distinct prompts."""

    rows: int
    distinct_prompts: int
    distinct_examples: int
    duplicate_rows: int
    most_repeated: int


@dataclass(frozen=True)
class Overlap:
    """Prompts of split `part` that are in split `of` too.

    `prompts`: distinct ones; `rows`: rows of `part`, `share` of all its rows; `same_answer`:
    distinct prompts of them with an answer in common; `source_rows`: the rows of `of`.
    """

    part: str
    of: str
    prompts: int
    rows: int
    share: float
    same_answer: int
    source_rows: int


@dataclass(frozen=True)
class Conflicts:
    """Prompts of one split with more than one answer, and the rows they take.

    `ceiling`: the share of the split's rows that a function of the prompt can get right.
    """

    prompts: int
    rows: int
    ceiling: float


@dataclass(frozen=True)
class Labels:
    """Answers as labels (ScienceQA: their first character), most frequent first, with shares."""

    distinct: int
    shares: dict[str, float]
    majority: str
    majority_share: float


@dataclass(frozen=True)
class Truncation:
    """What a budget cuts off one split; shares are of its rows.

    `head` and `middle` count the prompts that lose their beginning (the instruction, under
    `left`) or their middle; `answers` the answers longer than their budget (cut in training; in
    the other splits out of reach of a generation of that length). `prompt_tokens_lost` is the
    median over the cut prompts.
    """

    prompts: int
    prompts_share: float
    head: int
    middle: int
    prompt_tokens_lost: int
    answers: int
    answers_share: float


@dataclass
class TaskAudit:
    """Everything found about one task. Dicts are keyed by split; `labels` is empty where the
    answers are texts, `truncation` where no tokenizer was given.
    """

    task: str
    length_unit: str
    repetition: dict[str, Repetition]
    overlaps: list[Overlap]
    eval_is_test: bool
    conflicts: dict[str, Conflicts]
    labels: dict[str, Labels]
    prompt_lengths: dict[str, dict[str, int]]
    answer_lengths: dict[str, dict[str, int]]
    truncation: dict[str, Truncation] = field(default_factory=dict)
    oddities: dict[str, Oddities] = field(default_factory=dict)


def read_tasks(root: Path, tasks: Sequence[str]) -> dict[str, dict[str, list[Row]]]:
    """The splits of these tasks of a data root (`tasks` empty: all that are there).

    Raises UserError listing every fault of every file, and every task that is not there.
    """
    folder = trace_folder(root)
    if folder is None:
        raise UserError(f"{root}: holds no trace/<Task>/ folders")
    present = [task for task in FOLDERS if (folder / task).is_dir()]
    if not (tasks or present):
        raise UserError(f"{folder}: holds none of TRACE's tasks: {', '.join(FOLDERS)}")
    faults: list[str] = []
    loaded: dict[str, dict[str, list[Row]]] = {}
    for task in tasks or present:
        try:
            loaded[task] = _read_task(folder / task)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return loaded


def audit_task(
    task: str, splits: Mapping[str, Sequence[Row]], budget: TokenBudget | None
) -> TaskAudit:
    """Audits one task's splits (`train` and `test`, perhaps `eval`; none of them empty).

    Without a budget lengths are in characters and nothing is said about truncation.
    """
    pairs = [("test", "train"), ("eval", "train"), ("test", "eval")]
    measured = {
        split: budget.measure(rows, training=split == "train") if budget else _characters(rows)
        for split, rows in splits.items()
    }
    lengths = {split: lengths for split, (lengths, _) in measured.items()}
    return TaskAudit(
        task=task,
        length_unit="tokens" if budget else "characters",
        repetition={split: repetition(rows) for split, rows in splits.items()},
        overlaps=[
            overlap(splits, part, of) for part, of in pairs if part in splits and of in splits
        ],
        eval_is_test="eval" in splits and Counter(splits["eval"]) == Counter(splits["test"]),
        conflicts={split: conflicts(rows) for split, rows in splits.items()},
        labels=labels(task, splits),
        prompt_lengths={split: percentiles(length.prompts) for split, length in lengths.items()},
        answer_lengths={split: percentiles(length.answers) for split, length in lengths.items()},
        truncation={
            split: truncation(cuts) for split, (_, cuts) in measured.items() if cuts is not None
        },
        oddities={split: oddities(rows, budget) for split, rows in splits.items()},
    )


def repetition(rows: Sequence[Row]) -> Repetition:
    """Distinct prompts and (prompt, answer) pairs, and how often the commonest prompt comes."""
    prompts = Counter(row.prompt for row in rows)
    return Repetition(
        rows=len(rows),
        distinct_prompts=len(prompts),
        distinct_examples=len(set(rows)),
        duplicate_rows=len(rows) - len(prompts),
        most_repeated=max(prompts.values()),
    )


def overlap(splits: Mapping[str, Sequence[Row]], part: str, of: str) -> Overlap:
    """Which prompts of `part` are in `of`."""
    shared = {row.prompt for row in splits[part]} & {row.prompt for row in splits[of]}
    rows = sum(row.prompt in shared for row in splits[part])
    return Overlap(
        part=part,
        of=of,
        prompts=len(shared),
        rows=rows,
        share=rows / len(splits[part]),
        same_answer=len({row.prompt for row in set(splits[part]) & set(splits[of])}),
        source_rows=sum(row.prompt in shared for row in splits[of]),
    )


def conflicts(rows: Sequence[Row]) -> Conflicts:
    """Prompts with several answers; for such a prompt only its commonest answer can be right."""
    answers: dict[str, Counter[str]] = {}
    for row in rows:
        answers.setdefault(row.prompt, Counter())[row.answer] += 1
    torn = [counts for counts in answers.values() if len(counts) > 1]
    attainable = sum(max(counts.values()) for counts in answers.values())
    return Conflicts(
        len(torn), sum(sum(counts.values()) for counts in torn), attainable / len(rows)
    )


def labels(task: str, splits: Mapping[str, Sequence[Row]]) -> dict[str, Labels]:
    """The balance of answers, per split; empty where answers are texts.

    They are texts when the train split has more than half as many different ones as rows.
    """
    length = 1 if task in _FIRST_CHARACTER else None
    counts = {split: Counter(row.answer[:length] for row in rows) for split, rows in splits.items()}
    if len(counts["train"]) * 2 > len(splits["train"]):
        return {}
    return {split: _balance(count) for split, count in counts.items()}


def _balance(counts: Counter[str]) -> Labels:
    total = counts.total()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shares = {label: count / total for label, count in ordered[:_MAX_LABELS]}
    return Labels(len(counts), shares, ordered[0][0], ordered[0][1] / total)


def percentiles(values: Iterable[int]) -> dict[str, int]:
    """`p50`, `p90`, `p95`, `p99`, `max` by nearest rank: each is a length that occurs."""
    ordered = sorted(values)
    ranks = {q: max(1, ceil(q / 100 * len(ordered))) for q in PERCENTILES}
    return {("max" if q == 100 else f"p{q}"): ordered[rank - 1] for q, rank in ranks.items()}


def truncation(cuts: Sequence[Cut]) -> Truncation:
    """Counts what was cut off a split's rows."""
    lost = [cut.prompt_tokens for cut in cuts if cut.prompt_tokens]
    middle = sum(cut.keeps_head for cut in cuts if cut.prompt_tokens)
    answers = sum(cut.answer_tokens > 0 for cut in cuts)
    return Truncation(
        prompts=len(lost),
        prompts_share=len(lost) / len(cuts),
        head=len(lost) - middle,
        middle=middle,
        prompt_tokens_lost=round(median(lost)) if lost else 0,
        answers=answers,
        answers_share=answers / len(cuts),
    )


def _read_task(folder: Path) -> dict[str, list[Row]]:
    splits: dict[str, list[Row]] = {}
    faults: list[str] = []
    for split in SPLITS:
        path = trace_file(folder, split)
        if split == "eval" and not path.exists():
            continue
        try:
            splits[split] = trace_rows(path)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return splits


def _characters(rows: Sequence[Row]) -> tuple[TextLengths, None]:
    prompts = [len(row.prompt) for row in rows]
    return TextLengths(prompts, [len(row.answer) for row in rows]), None
