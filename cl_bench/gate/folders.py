"""The gate on two model folders: documents are scored in growing batches until it is decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

from cl_bench.config.budgets import documents_of
from cl_bench.config.schema import ExperimentConfig
from cl_bench.errors import UserError
from cl_bench.evaluation.chat_form import chat_of_folder
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.headline import headline_faults, headline_of
from cl_bench.evaluation.sampling import stratified_documents
from cl_bench.evaluation.suite import load_suite
from cl_bench.evaluation.units import Unit
from cl_bench.gate.changes import Measured
from cl_bench.gate.gated import Gated, Lost, check_margin
from cl_bench.gate.sides import Scores, Side, Sides
from cl_bench.gate.stored import OTHER_TOKENIZERS
from cl_bench.gate.verdicts import Sizes, Verdict, judge
from cl_bench.methods.spec import Experiment
from cl_bench.metrics.score_kinds import lies_between
from cl_bench.models.any_folder import any_tokenizer
from cl_bench.models.load import usable_device
from cl_bench.progress import Reporter
from cl_bench.scores.paired_changes import strata_of

LOOKS = 10
"""At most; more would save little (docs/gate.md)."""
FEWEST = 50
"""Documents of the first look, or all there are: the test's approximation needs some."""
Answering = Callable[[Sequence[Unit], int], Sequence[Mapping[str, Scores]]]
"""What OLD and NEW score in the units of a look, by their names."""
Benchmarks = Mapping[str, Mapping[str, Any]]
"""Leaf tasks by capability."""


@dataclass(frozen=True)
class Asked:
    """What two model folders are asked."""

    old: str
    new: str
    dtype: str
    tasks: Sequence[str]
    limit: int | None
    data_root: str | None
    task_paths: Sequence[str]
    engine: Engine
    chat_template: str = "off"
    """`off`, `auto`, or the text of a template."""


@dataclass
class ScoredDocuments:
    """Documents that both models answer when a look needs them, in a seeded random order."""

    benchmarks: Benchmarks
    limit: int | None
    """Of each; None: as many as the budget `standard` of `eval.general` has."""
    answers: Answering
    scores: dict[str, dict[str, dict[int, tuple[float, float]]]] = field(default_factory=dict)
    """Before and after, by capability, leaf and document."""

    @cached_property
    def batches(self) -> list[dict[str, dict[str, list[int]]]]:
        """By look the documents of every leaf of a capability, each look holding the one before."""
        sizes = {
            name: sum(len(task.eval_docs) for task in leaves.values())
            for name, leaves in self.benchmarks.items()
        }
        most = {
            name: min(size, self.limit or documents_of("standard", name) or size)
            for name, size in sizes.items()
        }
        return [
            {
                name: stratified_documents(
                    leaves, max(min(most[name], FEWEST), ceil(most[name] * look / LOOKS))
                )
                for name, leaves in self.benchmarks.items()
            }
            for look in range(1, LOOKS + 1)
        ]

    @property
    def rounds(self) -> Sequence[Mapping[str, Sizes]]:
        """How many those are."""
        return [
            {name: {leaf: len(ids) for leaf, ids in own.items()} for name, own in batch.items()}
            for batch in self.batches
        ]

    @cached_property
    def graded(self) -> dict[str, bool]:
        """Whether scores may lie between right and wrong, by capability."""
        return {
            name: any(
                lies_between(leaf, {"metric": headline_of(task).metric}) is not False
                for leaf, task in leaves.items()
            )
            for name, leaves in self.benchmarks.items()
        }

    def measured(self, capabilities: Sequence[str], look: int) -> dict[str, Measured]:
        """All up to this look; those that are new are scored now, by one model after the other."""
        units = [unit for name in capabilities if (unit := self._new(name, look)) is not None]
        before, after = self.answers(units, look)
        for unit in units:
            known = self.scores[unit.name]
            for leaf, ids in unit.documents.items():
                sides = (before[unit.name][leaf], after[unit.name][leaf])
                known.setdefault(leaf, {}).update({i: (sides[0][i], sides[1][i]) for i in ids})
        return {name: self._measured(name) for name in capabilities}

    def _new(self, capability: str, look: int) -> Unit | None:
        """Documents that were not there at the look before."""
        known = self.scores.setdefault(capability, {})
        new = {
            leaf: [i for i in ids if i not in known.get(leaf, {})]
            for leaf, ids in self.batches[look][capability].items()
        }
        new = {leaf: ids for leaf, ids in new.items() if ids}
        leaves = {leaf: self.benchmarks[capability][leaf] for leaf in new}
        return Unit("general", capability, leaves, new) if new else None

    def _measured(self, capability: str) -> Measured:
        sides = {
            leaf: ([b for b, _ in own.values()], [a for _, a in own.values()])
            for leaf, own in self.scores[capability].items()
        }
        return Measured.of(strata_of(sides, self.graded[capability]))


def gate_folders(
    asked: Asked, margin: float, budget: float | None, results: Path, reporter: Reporter
) -> Gated:
    """Score what is needed, for at most `budget` seconds after the first look.

    What is scored is kept below `results`: the same gate goes on there (`sides.py`).

    Raises UserError for models or tasks that cannot be had, a metric of all documents together, and
    a margin that so many documents could never show.
    """
    benchmarks = _benchmarks(asked)
    _check_form(asked, reporter.line)
    device = usable_device(None)
    sides = Sides(
        [
            Side(path, asked.dtype, asked.engine, results, reporter)
            for path in (asked.old, asked.new)
        ],
        device,
    )
    documents = ScoredDocuments(benchmarks, asked.limit, sides.scores)
    check_margin(documents.rounds, documents.graded, margin)
    reporter.tasks(LOOKS, 2 * sum(sum(s.values()) for s in documents.rounds[-1].values()))
    try:
        found = judge(documents, margin, _Clock(budget), _told(reporter))
    finally:
        sides.release()
    lost: dict[str, list[Lost]] = {}
    gained: dict[str, int] = {}
    for name, leaves in documents.scores.items():
        pairs = [(leaf, i, *pair) for leaf, own in leaves.items() for i, pair in own.items()]
        lost[name] = [Lost((leaf, i), b, a) for leaf, i, b, a in pairs if a < b]
        gained[name] = sum(a > b for _, _, b, a in pairs)
    return Gated(asked.old, asked.new, margin, found, lost, gained, _notes(asked))


def _benchmarks(asked: Asked) -> Benchmarks:
    config = ExperimentConfig.model_validate(
        {
            "name": "gate",
            "model": {"path": asked.new, "chat_template": asked.chat_template},
            "methods": ["ori"],
            # A config has stages; none of it is loaded.
            "stages": [{"task": "mini_py150", "score": False}],
            "eval": {"general": {"tasks": list(asked.tasks)}, "probes": False},
            "data_root": asked.data_root,
            "task_paths": list(asked.task_paths),
        }
    )
    suite = load_suite(Experiment(config, (), ()), asked.engine)
    if faults := list(headline_faults(suite.leaves.values())):
        raise UserError(faults)
    whole = [name for name, task in suite.leaves.items() if headline_of(task).corpus]
    if whole:
        raise UserError(
            f"--task {', '.join(whole)}: its score is a number of all documents together, of which "
            "single documents have none: score two stages whole, and gate those"
        )
    return suite.general


def _check_form(asked: Asked, say: Callable[[str], None]) -> None:
    """Both models are asked with the same texts. UserError where their templates are not the same.

    `say` is told of templates that are not used.
    """
    found = [chat_of_folder(path, asked.chat_template, say) for path in (asked.old, asked.new)]
    if faults := [fault for _, own in found for fault in own]:
        raise UserError(faults)
    forms = [None if chat is None else chat.depends_on() for chat, _ in found]
    if forms[0] != forms[1]:
        raise UserError(
            f"--chat-template: {asked.old} and {asked.new} have other templates, so that the "
            "questions would not be the same: give a file with one for both, or off"
        )


def _notes(asked: Asked) -> list[str]:
    ours, theirs = (any_tokenizer(path).get_vocab() for path in (asked.old, asked.new))
    return [OTHER_TOKENIZERS] if ours != theirs else []


class _Clock:
    """Whether there is time for another look that takes as long as the last one."""

    def __init__(self, budget: float | None) -> None:
        self.budget = budget
        self.began = self.last = time.monotonic()

    def __call__(self) -> bool:
        now = time.monotonic()
        took, self.last = now - self.last, now
        return self.budget is not None and now + took - self.began > self.budget


def _told(reporter: Reporter) -> Callable[[int, Mapping[str, Verdict]], None]:
    def tell(turn: int, verdicts: Mapping[str, Verdict]) -> None:
        words = ", ".join(f"{name} {verdict}" for name, verdict in verdicts.items())
        reporter.event(f"look {turn + 1} of {LOOKS}: {words}")

    return tell
