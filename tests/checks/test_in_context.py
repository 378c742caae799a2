"""Gold answers go through the ends that a row with examples adds, before anything is paid for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cl_bench.checks.found import Preflight
from cl_bench.checks.in_context import check_in_context
from cl_bench.config.schema import ExperimentConfig
from cl_bench.data.examples import training_examples
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.suite import Suite
from cl_bench.experiment.resolve import resolve
from tests.helpers.gold_tasks import WORDS, task_of
from tests.helpers.tiny import byte_tokenizer, tiny_model

TRAIN = [f"word {i}" for i in range(20)]


def checked(task: Any, row: dict[str, Any] | None = None, **config: Any) -> Any:
    """Faults, and what is noted for the report, of a row with two examples on this one task."""
    read = ExperimentConfig.model_validate(
        {
            "name": "n",
            "model": {"path": "m"},
            "methods": [{"name": "ori", "shots": 2, **(row or {})}],
            "stages": [{"task": "compass"}],
            "train": {"max_answer_tokens": 12, "max_prompt_tokens": 40},
            **config,
        }
    )
    documents = {"compass": range(len(task.eval_docs))}
    suite = Suite({"compass": task}, {}, documents, {}, Engine())
    examples = {("compass", None, 42): training_examples(task, None, 42)}
    said: list[str] = []
    found = Preflight(
        resolve(read),
        suite,
        examples,
        "m",
        byte_tokenizer(),
        said.append,
        skeleton=SimpleNamespace(config=tiny_model().config),
    )
    faults = list(check_in_context(found))
    return faults, found.notes, said


def test_answers_that_no_end_touches_are_no_news() -> None:
    faults, notes, said = checked(task_of(WORDS, TRAIN))
    assert (faults, notes) == ([], [])
    assert len(said) == 1 and "compass: " in said[0] and "tokens a prompt" in said[0]


def test_a_gold_answer_with_what_stands_between_examples_would_be_cut() -> None:
    task = task_of(["a\n\nb", "c\n\nd"], TRAIN, generation_kwargs={"until": []})
    (fault,), notes, _ = checked(task)
    assert "methods: ori 2-shot: compass: 6 of 6 gold answers" in fault
    assert "stop string '\\n\\n'" in fault and "allow_unreachable" in fault and not notes
    faults, (note,), _ = checked(task, allow_unreachable=True)
    assert not faults and "stop string '\\n\\n'" in note
    trained = task_of(["a\n\nb", "c\n\nd"], ["e\n\nf", *TRAIN], generation_kwargs={"until": []})
    assert checked(trained)[:2] == ([], []), "then it is no end"


def test_questions_that_are_scored_are_no_examples() -> None:
    same = [f"{WORDS[i % 4]}" for i in range(4)]  # rows of both splits have the same prompts
    (fault,), _, _ = checked(task_of(WORDS, same))
    assert "compass: 0 of its 12 training examples are no scored documents" in fault


def test_a_window_that_holds_no_prompt_is_refused() -> None:
    (fault,), _, _ = checked(task_of(WORDS, TRAIN), {"max_prompt_tokens": 4000})
    assert "max_prompt_tokens 4000 with train.max_answer_tokens 12 is more than" in fault
