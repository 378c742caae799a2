"""Where the worked examples of a stage task come from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cl_bench.checks.asked_alike import shots_are_scored


@pytest.mark.parametrize(
    "given, scored",
    [
        ({"fewshot_split": "test"}, True),
        ({"fewshot_split": "train"}, False),
        ({"fewshot_split": "test", "fewshot_config": {"samples": [{"q": "x"}]}}, False),
        ({"fewshot_split": "dev", "test_split": None, "validation_split": "dev"}, True),
        ({}, False),
    ],
)
def test_shots_that_are_scored_are_known(given: dict[str, Any], scored: bool) -> None:
    config = {"fewshot_split": None, "fewshot_config": None, "test_split": "test"}
    assert shots_are_scored(SimpleNamespace(**config | given)) is scored
