"""`expected:` of a config: numbers to compare with, from a paper or from an earlier run of ours.

They are shown in reports under their source, and enter no table of what was measured.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cl_bench.config.strict import Strict


class ExpectedNumbers(Strict):
    """What a source says of one method; percentages."""

    general: float | None = Field(None, description="mean of General's benchmarks")
    op: float | None = Field(
        None, description="OP as printed, where the source does not say which mean it is"
    )
    op_final: float | None = Field(None, description="mean of the last row (TRACE's OP)")
    op_mean: float | None = Field(None, description="mean over stages t of OP_t")
    bwt: float | None = Field(None, description="backward transfer")
    benchmarks: dict[str, float] = Field(
        default_factory=dict, description="single benchmarks or tasks by name"
    )


class Expected(Strict):
    """One source: numbers, a note, or both."""

    kind: Literal["published", "measured here"] = Field(
        description="printed by others, or an earlier result of cl-bench"
    )
    source: str = Field(min_length=1, description="paper and table, with the model they are of")
    note: str | None = Field(
        None, description="what to know before comparing; reports print it below the source"
    )
    numbers: dict[str, ExpectedNumbers] = Field(
        default_factory=dict, description="by label, as in tables; ori is the base model"
    )

    @model_validator(mode="after")
    def _says_something(self) -> Expected:
        if not self.numbers and not self.note:
            raise ValueError("give numbers: or a note: (why there are none)")
        for label, numbers in self.numbers.items():
            if not numbers.model_fields_set:
                raise ValueError(f"numbers: {label}: no number")
        return self
