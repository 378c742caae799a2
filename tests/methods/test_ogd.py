"""OGD against a Gram-Schmidt and a projection written out plainly."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from cl_bench.errors import UserError
from cl_bench.methods.lora import LoRA, LoRAOptions
from cl_bench.methods.ogd import OGD, OGDOptions
from cl_bench.methods.state import State, give_state, state_of
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    Gradients,
    assert_close,
    encode,
    examples,
    make_stage,
    model64,
    reference_training,
    run_method,
    weights,
)

PLAIN = {"r": 2, "dropout": 0.0}
STAGES = (OLD, NEW, examples("newer", 5))


def options(**given: Any) -> OGDOptions:
    return OGDOptions(**{**PLAIN, "directions": 7, **given})


def direction(model: Any, item: Any, names: list[str], kind: str) -> Tensor:
    """The gradient of the answer's mean logit, or mean loss, of one unpadded example."""
    logits = model(input_ids=torch.tensor([item.input_ids])).logits[0]
    total = logits.new_zeros(())
    start = max(item.prompt_length, 1)
    for position in range(start, len(item.input_ids)):
        row, token = logits[position - 1], item.input_ids[position]
        total = total + (row[token] if kind == "logit" else -torch.log_softmax(row, -1)[token])
    mean = total / (len(item.input_ids) - start)
    found = torch.autograd.grad(mean, [model.get_parameter(name) for name in names])
    return torch.cat([one.flatten() for one in found])


@pytest.mark.parametrize("kind", ["logit", "loss"])
def test_gradients_are_orthogonal_to_examples_of_earlier_stages(kind: str) -> None:
    own = options(gradient=kind)
    stage, _ = make_stage(model64(), OLD, TRAIN)
    LoRA(LoRAOptions(**PLAIN)).prepare(stage)
    expected, model = copy.deepcopy(stage.model), stage.model
    names = sorted(name for name, p in expected.named_parameters() if p.requires_grad)
    state = State()
    kept: list[list[Tensor]] = []
    for index, items in enumerate(STAGES, 1):

        def project(gradients: Gradients, kept: list[list[Tensor]] = kept) -> None:
            g = torch.cat([gradients[name].flatten() for name in names])
            for row in [row for rows in kept for row in rows]:
                g = g - (row @ g) * row
            sizes = [gradients[name].numel() for name in names]
            for name, values in zip(names, g.split(sizes), strict=True):
                gradients[name].copy_(values.view_as(gradients[name]))

        reference_training(expected, items, TRAIN, 2, index, project, names)
        method = OGD(own)
        give_state(method, state)
        stage, batcher = make_stage(model, items, TRAIN, index)
        run_method(method, stage, batcher, 2)
        state = state_of(method)
        assert_close(weights(stage.model), weights(expected), 1e-7)  # the same noise

        share = 7 // index
        kept = [rows[:share] for rows in kept] + [[]]
        for item in encode(stage.sample(share, "ogd"), TRAIN):
            v = direction(stage.model, item, names, kind)
            for _ in range(3):
                for row in [row for rows in kept for row in rows]:
                    v = v - (row @ v) * row
            kept[-1].append(v / v.norm())
        basis = torch.stack([row for rows in kept for row in rows])
        # The model's norms compute in float32, whose noise grows where little is left of a row.
        torch.testing.assert_close(state.tensors["ogd/basis"], basis, rtol=0, atol=1e-6)
        assert stage.notes["directions"] == [len(rows) for rows in kept]
        assert len(basis) <= 7
        unit = basis @ basis.T - torch.eye(len(basis), dtype=basis.dtype)
        assert float(unit.abs().max()) < 1e-9


def test_with_update_the_step_itself_is_orthogonal() -> None:
    first = OGD(options())
    stage, batcher = make_stage(model64(), OLD, TRAIN)
    run_method(first, stage, batcher, 1)
    basis = first.state().tensors["basis"]
    moved = {}
    for project in ("gradient", "update"):
        method = OGD(options(project=project))
        method.load_state(first.state())
        second, batcher = make_stage(copy.deepcopy(stage.model), NEW, TRAIN, 2)
        before = weights(second.model)
        run_method(method, second, batcher, 1)
        after = weights(second.model)
        names = sorted(name for name in before if "lora_" in name)
        step = torch.cat([(after[name] - before[name]).flatten() for name in names])
        assert float(step.norm()) > 1e-3
        moved[project] = float((basis @ step).norm() / step.norm())
    assert moved["update"] < 1e-12 < 1e-3 < moved["gradient"]


def test_without_directions_it_is_lora_and_keeps_nothing() -> None:
    ours, theirs = make_stage(model64(), NEW, TRAIN), make_stage(model64(), NEW, TRAIN)
    method = OGD(options(directions=0))
    run_method(method, *ours, 1)
    run_method(LoRA(LoRAOptions(**PLAIN)), *theirs, 1)
    assert_close(weights(ours[0].model), weights(theirs[0].model), 0)
    assert not method.state()


def test_an_example_that_says_nothing_new_adds_no_direction() -> None:
    stage, batcher = make_stage(model64(), [OLD[0]] * 3, TRAIN)
    method = OGD(options())
    run_method(method, stage, batcher, 1)
    assert stage.notes["directions"] == [1] and len(method.state().tensors["basis"]) == 1


def test_directions_of_another_adapter_are_refused() -> None:
    method = OGD(options())
    method.load_state(State({"basis": torch.zeros(1, 3)}, {"counts": [1]}))
    with pytest.raises(UserError, match="another adapter"):
        method.prepare(make_stage(model64(), NEW, TRAIN, 2)[0])
