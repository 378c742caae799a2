"""One update of the loop: when gradients become zero."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cl_bench.config.schema import TrainConfig
from cl_bench.experiment.update import update
from cl_bench.methods.base import Method
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.update_plan import UpdatePlan


class Looks(Method):
    """Reads in `after_step` the gradients that it was given before the step."""

    name = "looks"

    def before_step(self, step):
        self.grads = step.grads

    def after_step(self, masters):
        self.seen = {name: grad.clone() for name, grad in self.grads.items()}
        return False


@pytest.mark.parametrize("kind", [Method, Looks])
def test_gradients_stay_as_long_as_a_method_may_look_at_them(kind):
    layer = torch.nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    method = kind()
    batcher = SimpleNamespace(processes=SimpleNamespace(all_reduce=lambda tensor: None))
    with SelectiveUpdate(layer, UpdatePlan()) as engine:
        for grad in engine.grads.values():
            grad.fill_(0.5)
        stage = SimpleNamespace(model=layer)
        norm = update(stage, method, engine, TrainConfig(max_grad_norm=9.0), 0.1, 1, batcher)
        assert norm == pytest.approx((8 * 0.25) ** 0.5)
        assert all(not grad.any() for grad in engine.grads.values())
    assert torch.allclose(layer.weight, before - 0.1)
    if kind is Looks:
        assert all((grad == 0.5).all() for grad in method.seen.values())
