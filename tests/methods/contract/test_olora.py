"""O-LoRA against the gradient of its overlap written out plainly; what `step.add` refuses."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cl_bench.errors import RunError
from cl_bench.experiment.adapter_base import BaseWeights
from cl_bench.methods.base import Method, Step
from cl_bench.methods.lora import LoRA
from cl_bench.training.update_plan import Rows, UpdatePlan
from tests.helpers.reference import (
    Gradients,
    assert_close,
    make_stage,
    reference_training,
    run_method,
    weights,
)
from tests.methods.contract.helpers import NEW, OLD, TRAIN, method, model64, two_stages


def test_olora_trains_an_adapter_a_stage_orthogonal_to_those_before() -> None:
    first, second = two_stages("olora", model64(), epochs=2, strength=0.3)
    old = first.state.tensors
    stage, _ = make_stage(copy.deepcopy(first.model), NEW, TRAIN, 2)
    method("olora").prepare(stage)
    expected: Any = stage.model
    adapters = [name for name, p in expected.named_parameters() if p.requires_grad]

    def overlap(gradients: Gradients) -> None:
        for name, value in old.items():
            own = expected.get_parameter(name.removeprefix("olora/")).detach()
            gradients[name.removeprefix("olora/")] += 0.3 * (value @ own.T).sign().T @ value

    reference_training(expected, NEW, TRAIN, 2, 2, before_step=overlap, trained=adapters)
    a = {n: w for n, w in weights(expected).items() if "lora_A" in n}
    assert_close(weights(second.model), weights(expected.merge_and_unload()), 1e-8)
    for name, own in a.items():
        kept = second.state.tensors[f"olora/{name}"]
        assert torch.equal(kept[:2], old[f"olora/{name}"])
        torch.testing.assert_close(kept[2:], own, rtol=0, atol=1e-8)


def test_an_adapter_whose_base_was_moved_is_not_saved_alone() -> None:
    """Merged at the start of a stage by a method that says it trains adapters."""
    part = SimpleNamespace(method=type(method("olora")))
    spec: Any = SimpleNamespace(adapters=True, parts=[part])
    stage, _ = make_stage(model64(), NEW, TRAIN)
    under = BaseWeights(spec, stage.model)
    own = method("olora")
    own.prepare(stage)
    under.check(stage.model)
    with torch.no_grad():
        for name, parameter in stage.model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1)
    under.check(stage.model)
    own.finish(stage)
    under.check(stage.model)  # a whole model is saved
    own.prepare(stage)
    with pytest.raises(RunError, match=r"method olora: .*q_proj\.weight \(of 4 weights\)"):
        under.check(stage.model)
    spec.parts = [SimpleNamespace(method=LoRA)]
    BaseWeights(spec, stage.model).check(stage.model)


class Adds(Method):
    name = "adds"
    term: Any = None

    def plan(self, stage: Any) -> UpdatePlan:
        return UpdatePlan({"model.layers.0.mlp.up_proj.weight": Rows(torch.tensor([1, 4]))})

    def before_step(self, step: Step) -> None:
        self.before = {name: grad.clone() for name, grad in step.grads.items()}
        self.value = step.add(lambda masters: self.term(step, masters))
        self.after = {name: grad.clone() for name, grad in step.grads.items()}


def test_a_term_on_weights_is_added_once_and_compactly() -> None:
    own = Adds()
    target = torch.ones(64, 32, dtype=torch.float64)
    name = "model.layers.0.mlp.up_proj.weight"

    def term(step: Step, masters: Any) -> torch.Tensor:
        return (masters[name] - step.compact(name, target)).square().sum()

    own.term = term
    model = model64()
    rows = model.get_parameter(name).detach()[[1, 4]].clone()
    run_method(own, *make_stage(model, OLD, TRAIN), epochs=1)
    changed = own.after[name] - own.before[name]
    torch.testing.assert_close(changed, 2 * (rows - 1), rtol=0, atol=1e-12)
    assert float(own.value) == pytest.approx(float((rows - 1).square().sum()))
    others = [n for n in own.after if n != name]
    assert others and all(torch.equal(own.after[n], own.before[n]) for n in others)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (lambda step, masters: torch.zeros(()), "has no gradient"),
        (lambda step, masters: torch.ones((), requires_grad=True) * 2, "has no gradient"),
        (lambda step, masters: 3.0, "one number"),
        (lambda step, masters: next(iter(masters.values())), "one number"),
    ],
)
def test_a_term_that_changes_nothing_is_refused(term: Any, expected: str) -> None:
    own = Adds()
    own.term = term
    with pytest.raises(RunError, match=rf"step\.add: .*{expected}"):
        run_method(own, *make_stage(model64(), OLD, TRAIN), epochs=1)
