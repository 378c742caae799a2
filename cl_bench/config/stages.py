"""An entry of `stages:`: a task by its name, or rows of the user's own."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from cl_bench.config.strict import PositiveInt, Section

HUB = "hf://"
"""How places on the Hub begin."""
PLACES = ("data", "test")
"""Keys of a stage that say where rows are."""
_ENDING = re.compile(r"\.(jsonl?|csv|tsv|parquet)$", re.IGNORECASE)
OwnMetric = Literal["exact_match", "contains", "number", "rouge_l", "bleu"]


def name_of_data(given: str) -> str:
    """The task's name where a stage gives none: that of the file, the folder or the data set."""
    last = re.split(r"[/\\]", given.rstrip("/\\"))[-1]
    if given.startswith(HUB):
        last = last.partition("@")[0].replace(":", "-")
    else:
        last = _ENDING.sub("", last)
    return re.sub(r"[^\w.-]+", "_", last) or "data"


def is_place(given: str) -> bool:
    """Whether a text names rows, where a task's name may stand too."""
    return given.startswith(HUB) or _ENDING.search(given) is not None


class StageConfig(Section):
    """One task of the sequence. Keys of `train:` and of the methods' options are taken too."""

    model_config = ConfigDict(extra="allow")

    task: str = Field(
        description="one of `cl-bench tasks`, of lm-eval, or of your task_paths; with data: its "
        "name, default: the file's"
    )
    data: str | None = Field(
        None,
        description="rows of your own to train on: a file, a folder of files or hf://owner/name; "
        "docs/own-files.md",
    )
    test: str | None = Field(None, description="rows to score it on, as data")
    holdout: float | int | None = Field(
        None,
        description="in place of test: a part (0.1) or number (50) of data's rows",
    )
    metrics: list[OwnMetric] | None = Field(
        None,
        min_length=1,
        description="of data's answers: exact_match, contains, number, rouge_l, bleu; the first is "
        "the score; default: exact_match for short answers, rouge_l for long ones",
    )
    epochs: PositiveInt = Field(1, description="passes over the training examples")
    limit: PositiveInt | None = Field(None, description="training examples, a seeded sample")
    test_limit: PositiveInt | None = Field(None, description="test documents; beats eval.trace")
    score: bool = Field(
        True, description="false: the stage only trains; its task is no column of the matrix"
    )
    allow_unreachable: bool = Field(
        False, description="true: run though gold answers would not get the task's full score"
    )
    method: str | dict[str, Any] | None = Field(
        None, description="this stage's own method; only when `methods:` is absent"
    )

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_file(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("data"), str) and "task" not in value:
            return {**value, "task": name_of_data(value["data"])}
        return value

    @field_validator("data", "test")
    @classmethod
    def _a_place(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("names no file")
        return value

    @field_validator("holdout")
    @classmethod
    def _some_rows(cls, value: float | int | None) -> float | int | None:
        if isinstance(value, int) and value < 1:
            raise ValueError("keeps no rows to score: give a part (0.1) or a number of rows (50)")
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError("a part of the rows lies between 0 and 1 (a number of them: 50)")
        return value

    @field_validator("metrics")
    @classmethod
    def _each_once(cls, value: list[OwnMetric] | None) -> list[OwnMetric] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("a metric is listed twice")
        return value

    @model_validator(mode="after")
    def _of_data(self) -> StageConfig:
        given = [key for key in ("test", "holdout", "metrics") if getattr(self, key) is not None]
        if given and self.data is None:
            raise ValueError(f"{given[0]}: belongs to data:, which names the rows to train on")
        if self.test is not None and self.holdout is not None:
            raise ValueError("test: and holdout: both say what is scored: keep one")
        if given and not self.score:
            raise ValueError(f"{given[0]}: and score: false contradict each other: keep one")
        return self

    @property
    def overrides(self) -> dict[str, Any]:
        """Keys for `train:` or for the method's options, given for this stage alone."""
        return dict(self.model_extra or {})
