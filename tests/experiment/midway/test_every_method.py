"""Every method that is shipped: a stage in several sessions leaves what it leaves in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cl_bench.methods.base import Method
from cl_bench.methods.compose import Composite
from cl_bench.methods.registry import METHODS, method_class
from tests.experiment.midway.sessions import Beginning, trained
from tests.helpers.cases import CASES, configured
from tests.helpers.reference import NEW, OLD, TRAIN, weights
from tests.helpers.sequences import Shelf
from tests.helpers.tiny import tiny_model

OWN: dict[str, Callable[[], Method]] = {
    **CASES,
    **{name: method_class(name) for name in METHODS if name not in CASES},
    "loki": configured(method_class("loki"), share=0.5, steps=2),
    "das": configured(method_class("das"), score_examples=3),
    "replay posthoc": configured(method_class("replay"), mode="posthoc", selection="nll", ratio=1),
    "ewc per task": configured(method_class("ewc"), mode="per_task", estimator="batch"),
    "block_expansion": configured(method_class("block_expansion"), every=1),
    "recadam": configured(method_class("recadam"), gamma=100, t0=1),
    "branch_merge": configured(method_class("branch_merge"), branches=2, rounds=2),
    "fggm renewed + replay": lambda: Composite(
        [configured(method_class("fggm"), refresh=1)(), method_class("replay")()]
    ),
}
ALL_POINTS = (
    *("sft", "fggm renewed", "fggm", "ewc", "lora", "grads", "migu", "der", "ogd", "recadam"),
    *("replay posthoc", "ema", "osft", "branch_merge"),
)
"""Interrupted wherever it can be; the others here and there."""


def chosen() -> list[Any]:
    """More options of a method are for the soak; `mtl` has one stage, as sft has."""
    here = {*METHODS, *ALL_POINTS, "fggm renewed + replay", "ewc per task"}
    marks = {name: () if name in here else (pytest.mark.slow,) for name in OWN if name != "mtl"}
    return [pytest.param(name, marks=marks[name]) for name in sorted(marks)]


@pytest.mark.parametrize("name", chosen())
def test_in_sessions_as_in_one(name: str, tmp_path: Path) -> None:
    make, model = OWN[name], tiny_model()
    first = Beginning(make, model, OLD, TRAIN, shelf=Shelf([weights(model)]))
    before = trained(first, tmp_path / "first")
    shelf = Shelf([weights(model), dict(before.weights)])
    second = Beginning(
        make, before.model, NEW, TRAIN, 2, before.state, shelf, [("old", OLD)], epochs=2
    )
    whole = trained(second, tmp_path / "whole")
    parts = trained(second, tmp_path / "parts", looks=1 if name in ALL_POINTS else 4)
    assert whole.sessions == 1 and parts.sessions > 1
    parts.is_that_of(whole)
    assert parts.warnings == [] and len(whole.records) >= 3
