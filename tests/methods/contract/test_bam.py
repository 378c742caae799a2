"""Branch and merge against branches that are trained apart; what a phase may not be."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cl_bench.errors import RunError, UserError
from cl_bench.experiment.resolve import resolve_file
from cl_bench.methods.base import Method, Phase, Stage
from cl_bench.methods.compose import Composite
from cl_bench.methods.fggm import FGGM
from cl_bench.methods.static_checks import composition_fault
from cl_bench.training.update_plan import Elements, Frozen, UpdatePlan
from tests.helpers.configs import write
from tests.helpers.reference import (
    assert_close,
    make_stage,
    reference_training,
    run_method,
    weights,
)
from tests.methods.contract.helpers import NEW, OLD, TRAIN, method, model64


def test_branches_begin_where_the_stage_began_and_are_averaged() -> None:
    start = model64()
    ends = []
    for branch in range(2):
        model = copy.deepcopy(start)
        reference_training(model, NEW[branch::2], TRAIN, 2)
        ends.append(weights(model))
    model = copy.deepcopy(start)
    stage, batcher = make_stage(model, NEW, TRAIN)
    records = run_method(method("branch_merge"), stage, batcher, epochs=2)
    assert [record["phase"] for record in records] == [1, 1, 2, 2]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    expected = {name: (value + ends[1][name]) / 2 for name, value in ends[0].items()}
    assert_close(weights(model), expected)


class Yields(Method):
    """Whatever a test says."""

    name = "yields"
    given: Any = ()

    def phases(self, stage: Stage) -> Iterator[Phase]:
        yield from self.given


def yields(*given: Any) -> Yields:
    own = Yields()
    own.given = given
    return own


def test_a_phase_has_its_own_plan_and_rate() -> None:
    start = model64()
    model, name = copy.deepcopy(start), "model.layers.1.mlp.up_proj.weight"
    plan = UpdatePlan({name: Elements(torch.ones(64, 32, dtype=torch.bool))}, default=Frozen())
    only = yields(Phase(NEW, 1, plan=plan, lr=5e-4), Phase(OLD, 1))
    seen: list[dict[str, Any]] = run_method(only, *make_stage(model, NEW, TRAIN), epochs=9)
    assert [record["lr"] for record in seen] == [5e-4, TRAIN.lr]
    expected = copy.deepcopy(start)
    train = TRAIN.model_copy(update={"lr": 5e-4})
    reference_training(expected, NEW, train, 1, trained=[name])
    reference_training(expected, OLD, TRAIN, 1)
    assert_close(weights(model), weights(expected))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "yields no Phase"),
        ([3], "is int, not a Phase"),
        ([Phase([], 1)], "has no examples"),
        ([Phase(NEW, 0)], "has epochs 0"),
        ([Phase(NEW, 1, lr=-1.0)], "has lr -1.0"),
        ([Phase(NEW, 1, start="stage")], "has start 'stage': weights by name"),  # type: ignore[arg-type]
        ([Phase(NEW, 1, plan=Frozen())], "has a plan that is Frozen"),  # type: ignore[arg-type]
        ([Phase(NEW, 1, start={"nothing": torch.zeros(1)})], "no weight nothing"),
    ],
)
def test_what_is_no_phase_is_refused(given: list[Any], expected: str) -> None:
    with pytest.raises(RunError, match=expected):
        run_method(yields(*given), *make_stage(model64(), NEW, TRAIN), epochs=1)


class Loads(Method):
    name = "loads"

    def prepare(self, stage: Stage) -> None:
        self.stage = stage

    def before_step(self, step: Any) -> None:
        self.stage.load(self.stage.snapshot())


def test_weights_are_not_loaded_in_the_middle_of_a_phase() -> None:
    with pytest.raises(RunError, match="not in the middle of a phase"):
        run_method(Loads(), *make_stage(model64(), NEW, TRAIN), epochs=1)


def test_only_one_part_defines_phases_or_plans(tmp_path: Path) -> None:
    stage, batcher = make_stage(model64(), NEW, TRAIN)
    both = Composite([yields(Phase(NEW, 1, plan=UpdatePlan())), FGGM()])
    with pytest.raises(UserError, match="yields and fggm both decide"):
        run_method(both, stage, batcher, epochs=1)
    fault = composition_fault([Yields, type(method("branch_merge"))])
    assert (
        fault == "compose: yields and branch_merge both define training phases; only one part may"
    )
    assert composition_fault([Yields, FGGM, type(method("ties"))]) is None
    said = "compose: ema and ties both say which model is scored"
    with pytest.raises(UserError, match=said):
        resolve_file(write(tmp_path, methods=[{"compose": ["ema", "ties"]}]))
    one = {"compose": ["ema", {"name": "ties", "for": "training"}]}
    assert resolve_file(write(tmp_path, methods=[one])).runs[0].stages[0].scoring == ["ema"]
