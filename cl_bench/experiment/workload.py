"""How much there is to train on, as far as files on this machine tell without loading a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from statistics import fmean
from typing import Any

from cl_bench.config.schema import ExperimentConfig, ModelConfig, TrainConfig
from cl_bench.costs.model_shapes import model_file
from cl_bench.costs.shapes import Shapes
from cl_bench.costs.total import Total
from cl_bench.data.own_files.task import StageData, earlier_answers, own_task, training_pairs
from cl_bench.data.rows import TraceRow, read_rows
from cl_bench.data.sources import resolve_data_root, trace_file
from cl_bench.errors import UserError
from cl_bench.methods.spec import RunSpec, TrainingSet
from cl_bench.metrics.trace_tasks import TASKS

_SAMPLE = 64  # rows whose tokens are counted, spread evenly over the file


@dataclass(frozen=True)
class Workload:
    """Training examples of a stage, and tokens of an example: a mean, or the most there can be.

    `answers`: of those tokens the ones that are learned, with what ends each answer.
    """

    examples: int
    tokens: float
    exact: bool
    answers: float

    @property
    def all_tokens(self) -> float:
        """Tokens of one epoch, without padding."""
        return self.examples * self.tokens


class Workloads:
    """Looks tasks up once; data that is not there, or neither TRACE's nor the user's own rows
    (`own`), leaves what `limit:` says."""

    def __init__(
        self, config: ExperimentConfig, own: Mapping[str, StageData] | None = None
    ) -> None:
        self._own = own or {}
        self._root = resolve_data_root(config.data_root)
        self._chat = config.model.chat_template != "off"
        self._count = token_counter(config.model)
        self._rows: dict[str, Sequence[_Row] | None] = {}
        self._means: dict[tuple[str, int, int], tuple[float, float]] = {}

    def of(self, sets: Sequence[TrainingSet], train: TrainConfig) -> Workload | None:
        """The tasks of one stage together; None when the number of examples is not known.

        Raises UserError for a data file with faults.
        """
        found = [self._one(task, limit, train) for task, limit in sets]
        known = [workload for workload in found if workload is not None]
        if len(known) < len(found):
            return None
        examples = sum(workload.examples for workload in known)
        tokens = sum(workload.all_tokens for workload in known) / max(examples, 1)
        answers = sum(one.examples * one.answers for one in known) / max(examples, 1)
        return Workload(examples, tokens, all(workload.exact for workload in known), answers)

    def _one(self, task: str, limit: int | None, train: TrainConfig) -> Workload | None:
        rows, answer = self._rows_of(task), train.max_answer_tokens + 1
        most = train.max_prompt_tokens + answer
        if rows is None:
            return None if limit is None else Workload(limit, most, False, answer)
        examples = len(rows) if limit is None else min(limit, len(rows))
        if self._count is None:
            return Workload(examples, most, False, answer)
        key = (task, train.max_prompt_tokens, train.max_answer_tokens)
        if key not in self._means:
            sample = rows[:: -(-len(rows) // _SAMPLE)]
            found = [_tokens(row, self._count, train) for row in sample]
            self._means[key] = fmean(whole for whole, _ in found), fmean(own for _, own in found)
        tokens, answers = self._means[key]
        return Workload(examples, tokens, True, answers)

    def _rows_of(self, task: str) -> Sequence[_Row] | None:
        if task in self._own and task not in self._rows:
            self._rows[task] = _own_rows(task, self._own[task], self._chat)
        if task not in self._rows:
            trace = TASKS.get(task)
            path = trace_file(self._root / "trace" / trace.trace_name, "train") if trace else None
            there = path is not None and path.is_file()
            found = read_rows(path, TraceRow) if path and there else []
            self._rows[task] = [_Row(row.prompt, row.answer) for row in found]
        return self._rows[task] or None


@dataclass(frozen=True)
class _Row:
    prompt: str
    answer: str
    earlier: Sequence[str] = ()
    """Answers in the prompt that are learned too."""


def _own_rows(task: str, data: StageData, chat: bool) -> Sequence[_Row] | None:
    """None where something is wrong with them: the checks say it, with all else."""
    try:
        made = own_task(task, data, scored=False)
    except UserError:
        return None
    turns = earlier_answers(made) if chat else repeat(())
    return [_Row(*pair, own) for pair, own in zip(training_pairs(made), turns, strict=False)]


def _tokens(row: _Row, count: Callable[[str], int], train: TrainConfig) -> tuple[int, int]:
    """Tokens of a training example, and those that are learned, with what ends each answer.

    The prompt is within its limit, and the answer within its own.
    """
    prompt = min(count(row.prompt), train.max_prompt_tokens)
    answer = min(count(row.answer) + 1, train.max_answer_tokens + 1)
    return prompt + answer, answer + min(prompt, sum(count(text) + 1 for text in row.earlier))


def stage_total(run: RunSpec, position: int, shapes: Shapes, workloads: Workloads) -> Total:
    """What a stage costs, with the outputs that its method stores for the tasks so far."""
    stage, earlier = run.stages[position], run.earlier(position)
    cost = stage.cost(shapes, len(earlier))
    if not cost.added.disk.outputs:
        return cost
    answers = []
    for task, limit in (*earlier, *stage.sets):
        load = workloads.of([(task, limit)], stage.train)
        most = stage.train.max_answer_tokens + 1
        answers.append((None, float(most)) if load is None else (load.examples, load.answers))
    return replace(cost, answers=tuple(answers))


def token_counter(model: ModelConfig) -> Callable[[str], int] | None:
    """Counts tokens by the model's tokenizer.json; None if it is not on this machine."""
    path = model_file(model, "tokenizer.json")
    tokenizer = None if path is None else _tokenizer(path)
    if tokenizer is None:
        return None
    return lambda text: len(tokenizer.encode(text).ids)


def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception:  # its only class; loading the model says what is wrong
        return None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
