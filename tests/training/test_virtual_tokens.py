"""PEFT's prompt learning puts tokens in front of all others: refused, not trained wrongly."""

from __future__ import annotations

from typing import Any

import pytest
from peft import PromptTuningConfig, get_peft_model

from cl_bench.errors import RunError
from cl_bench.experiment.loop import train_stage
from cl_bench.methods.base import Method
from tests.helpers.tiny import tiny_model


class Prompts(Method):
    """Prompt tuning, as someone might write it."""

    name = "prompts"

    def prepare(self, stage: Any) -> None:
        """Wrap the model."""
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        stage.model = get_peft_model(stage.model, config)


class Stage:
    """As much of a stage as `prepare` sees."""

    model: Any = tiny_model()


def test_prompt_learning_is_refused_with_the_reason() -> None:
    with pytest.raises(RunError, match=r"PROMPT_TUNING .*virtual tokens"):
        train_stage(Stage(), Prompts.__new__(Prompts), 1, None, lambda *_: None)  # type: ignore[arg-type]
