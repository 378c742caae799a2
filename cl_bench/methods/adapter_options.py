"""What every method that trains low-rank adapters lets its user choose."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from cl_bench.methods.base import Options


class AdapterOptions(Options):
    """Options of every method that trains low-rank adapters; defaults are TRACE's."""

    r: Annotated[int, Field(gt=0)] = Field(8, description="rank")
    lora_alpha: Annotated[float, Field(gt=0)] = Field(32, description="scale is lora_alpha / r")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="of the adapter's input in training"
    )
    target_modules: Annotated[list[str], Field(min_length=1)] | str | None = Field(
        None,
        description="names of linear layers, or all-linear; q_proj and v_proj, else PEFT's choice",
    )

    def of_peft(self, on_meta: bool = False) -> dict[str, Any]:
        """What PEFT's config has in addition. `on_meta`: for a model without weights."""
        return {}
