"""Penalties that train nothing, states that replace, names that do not exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from cl_bench.config.schema import TrainConfig
from cl_bench.errors import UserError
from cl_bench.methods.base import Method, State
from cl_bench.methods.compose import Composite
from cl_bench.methods.ewc import EWC
from cl_bench.methods.sft import SFT
from cl_bench.methods.state import handed_on, state_of
from cl_bench.training.selected import build_slots
from cl_bench.training.update_plan import Frozen, UpdatePlan
from tests.helpers.reference import examples, make_stage, reference_training, run_method, weights
from tests.helpers.tiny import tiny_model

TRAIN = TrainConfig(lr=1e-2, batch_size=4, micro_batch_size=2, max_grad_norm=1e9)


class Pull(Method):
    """An L2 penalty on the weights, written as a newcomer would."""

    name = "pull"

    def prepare(self, stage: Any) -> None:
        self.parameters = dict(stage.model.named_parameters())

    def penalty(self, batch: Any, outputs: Any) -> Tensor:
        return 0.05 * sum(p.square().sum() for p in self.parameters.values())


class Constant(Method):
    name = "constant"
    value: Any = 3.0

    def penalty(self, batch: Any, outputs: Any) -> Any:
        return self.value


def test_a_penalty_on_weights_trains_them() -> None:
    model, plain = (tiny_model(tie=True, dtype=torch.float64) for _ in range(2))
    stage, batcher = make_stage(model, examples("t", 6), TRAIN)
    run_method(Pull(), stage, batcher, epochs=1)
    parameters = dict(plain.named_parameters())

    def pulled(gradients: dict[str, Tensor]) -> None:
        for name, gradient in gradients.items():
            gradient += 0.1 * parameters[name].detach()

    reference_training(plain, examples("t", 6), TRAIN, epochs=1, before_step=pulled)
    for name, value in weights(plain).items():
        torch.testing.assert_close(model.get_parameter(name), value, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "value", [3.0, torch.tensor(0.0), torch.ones((), requires_grad=True).detach()]
)
@pytest.mark.parametrize("composed", [False, True])
def test_a_penalty_without_a_gradient_is_refused(value: Any, composed: bool) -> None:
    constant = Constant()
    constant.value = value
    method = Composite([Pull(), constant]) if composed else constant
    stage, batcher = make_stage(tiny_model(), examples("t", 4), TRAIN)
    with pytest.raises(UserError, match=r"method constant: .*before_step"):
        run_method(method, stage, batcher, epochs=1)


def test_a_penalty_on_frozen_weights_alone_is_refused() -> None:
    class Frozenly(Pull):
        def plan(self, stage: Any) -> UpdatePlan:
            return UpdatePlan(default=Frozen())

    stage, batcher = make_stage(tiny_model(), examples("t", 4), TRAIN)
    with pytest.raises(UserError, match="without a gradient"):
        run_method(Frozenly(), stage, batcher, epochs=1)


class Memory(Method):
    def __init__(self, name: str, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.name = name  # type: ignore[misc]
        self.kept = State(state, {key: [] for key in state})

    def state(self) -> State:
        return self.kept


def test_a_state_replaces_what_the_method_kept() -> None:
    one = torch.ones(1)
    before = {"a/old": one, "a/mask_1": one, "ab/other": one, "c/kept": one}

    def left(method: Method) -> set[str]:
        given = State(before, dict.fromkeys(before, 0))
        found = handed_on(method, given, state_of(method))
        assert found.tensors.keys() == found.records.keys()
        return set(found.tensors)

    assert left(Memory("a", {"mask_2": one})) == {"a/mask_2", "ab/other", "c/kept"}
    both = Composite([Memory("a", {}), Memory("c", {"new": one})])
    assert left(both) == {"ab/other", "c/new"}
    assert left(SFT()) == before.keys()


def test_ewc_says_what_it_cannot_remember() -> None:
    method = EWC()
    method.load_state(State({"base_model.model.lora_A.default.weight": torch.ones(2)}))
    stage, _ = make_stage(tiny_model(), examples("t", 4), TRAIN)
    with pytest.raises(UserError, match="lora_A"):
        method.prepare(stage)


def test_an_unknown_parameter_names_the_nearest_and_not_all() -> None:
    plan = UpdatePlan({"layers.0.self_attn.q.weight": Frozen()})
    with pytest.raises(UserError) as caught:
        build_slots(tiny_model(layers=4), plan)
    assert "model.layers.0.self_attn.q_proj.weight" in str(caught.value)
    assert str(caught.value).count("model.layers") <= 3
