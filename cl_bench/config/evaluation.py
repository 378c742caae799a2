"""The part of a config that says what is scored, and when: `eval:`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cl_bench.config.budgets import SETS, TRACE_GENERAL, Budget, documents_of
from cl_bench.config.strict import PositiveInt, Section
from cl_bench.errors import nearest

Protocol = Literal["lm-eval", "opencompass-2023"]


class TraceEval(Section):
    """When and which cells of the stage-by-task matrix are scored."""

    after: Literal["every", "last", "never"] = Field(
        "every", description="after which stages the matrix is scored"
    )
    cells: Literal["lower", "last+diagonal", "all"] = Field(
        "lower", description="lower: tasks seen so far; all: unseen ones too (forward transfer)"
    )
    limit: PositiveInt | None = Field(None, description="test documents a task, a seeded sample")


class WithinStage(Section):
    """Scoring in the middle of the stages, for curves of learning and forgetting."""

    every: Literal["epoch"] | PositiveInt = Field(
        "epoch", description="after every epoch or after so many updates"
    )
    tasks: list[str] | None = Field(
        None, description="stage tasks or benchmarks; default: the stage's own and earlier ones"
    )
    limit: PositiveInt | None = Field(
        None, description="documents a task, a seeded sample; default: those of the stage's end"
    )


class GeneralEval(Section):
    """What is scored to see what the model forgets that no stage taught it."""

    after: Literal["every", "last", "never"] = Field(
        "every", description="after which stages General is scored; never: not for the base either"
    )
    tasks: list[str] = Field(
        default_factory=lambda: list(TRACE_GENERAL),
        description="benchmarks whose mean is General; the words trace and practical stand for "
        "the six and for ifeval, json_format, over_refusal, gsm8k",
    )
    protocol: Protocol = Field(
        "lm-eval", description="opencompass-2023: prompts and rules of TRACE's and FGGM's figures"
    )
    limit: int | dict[str, int] | None = Field(
        None, description="documents a benchmark, a seeded sample; or {benchmark: documents}"
    )
    budget: Budget | None = Field(None, description="a limit for each benchmark, in a word")

    @field_validator("tasks", mode="before")
    @classmethod
    def _words_for_several(cls, value: Any) -> Any:
        given = [value] if isinstance(value, str) and value in SETS else value
        if not isinstance(given, list) or not any(isinstance(o, str) and o in SETS for o in given):
            return given
        several = [SETS.get(one, [one]) if isinstance(one, str) else [one] for one in given]
        # A set beside one of its members names it twice, and means it once.
        return list(dict.fromkeys(name for some in several for name in some))

    @model_validator(mode="after")
    def _one_limit(self) -> GeneralEval:
        if self.budget is not None and self.limit is not None:
            raise ValueError("budget and limit both say how many documents are scored: keep one")
        for name in self.limit if isinstance(self.limit, dict) else ():
            if name not in self.tasks:
                raise ValueError(f"limit: {name} is not in tasks:{nearest(name, self.tasks)}")
        return self

    @field_validator("limit")
    @classmethod
    def _some_documents(cls, value: int | dict[str, int] | None) -> int | dict[str, int] | None:
        given = value if isinstance(value, dict) else {"limit": value}
        for name, documents in given.items():
            if documents is not None and documents < 1:
                raise ValueError(
                    f"{name}: {documents} documents give no score: 1 or more, or leave the "
                    "benchmark out of tasks: (all of General: `after: never`)"
                )
        return value

    def documents_of(self, benchmark: str) -> int | None:
        """How many documents of a benchmark are scored at most; None: all."""
        if self.budget is not None:
            return documents_of(self.budget, benchmark)
        return self.limit.get(benchmark) if isinstance(self.limit, dict) else self.limit

    def settings(self) -> dict[str, Any]:
        """What General's scores depend on: what a budget means may change, so its numbers."""
        limits = {name: self.documents_of(name) for name in self.tasks}
        return {"tasks": self.tasks, "protocol": self.protocol, "limit": limits}


class ProbesEval(Section):
    """Likelihoods that show small forgetting: docs/probes.md."""

    kl_texts: Annotated[int, Field(ge=0)] = Field(
        64, description="documents of General on which the model is compared with the base model"
    )
    kl_task_texts: Annotated[int, Field(ge=0)] = Field(
        16, description="scored documents of each stage task on whose answers the same is done"
    )
    kl_positions: PositiveInt = Field(
        8, description="positions of each; base/ keeps 4 bytes x vocabulary for every one"
    )


class EvalConfig(Section):
    """Scoring after the stages; the same documents for every method, seed and stage."""

    trace: TraceEval = Field(TraceEval(), description="the matrix of stages by tasks")
    general: GeneralEval = Field(GeneralEval(), description="what no stage teaches")
    within_stage: WithinStage | None = Field(
        None, description="`epoch`, a number of updates, or {every:, tasks:, limit:}; false: none"
    )
    probes: ProbesEval | None = Field(ProbesEval(), description="false: none")

    @field_validator("general", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"tasks": value} if isinstance(value, str) else value

    @field_validator("within_stage", mode="before")
    @classmethod
    def _in_short(cls, value: Any) -> Any:
        if value is False:
            return None
        return {"every": value} if isinstance(value, str | int) else value

    @field_validator("probes", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return {True: ProbesEval(), False: None}[value] if isinstance(value, bool) else value
