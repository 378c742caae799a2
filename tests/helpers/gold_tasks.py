"""A generated task with the gold answers of one's choice."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask

WORDS = ["north", "south", "east", "west"]
EXACT = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]


def rows(answers: list[str], times: int = 3) -> list[dict[str, str]]:
    return [{"q": f"Where {i}?", "a": a} for i, a in enumerate(answers * times)]


def task_of(answers: list[str], train: list[str] | None = None, **config: Any) -> ConfigurableTask:
    data = {
        "train": Dataset.from_list(rows(answers if train is None else train)),
        "test": Dataset.from_list(rows(answers)),
    }
    settings = {
        "task": "compass",
        "custom_dataset": lambda **_: data,
        "training_split": "train",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "q",
        "doc_to_target": "a",
        "target_delimiter": "",
        "generation_kwargs": {"until": ["\n"]},
        "metric_list": EXACT,
    }
    return ConfigurableTask(config=settings | config)
