"""LoKI against an integral taken example by example, and its rows against a plain loop."""

from __future__ import annotations

import copy
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cl_bench.costs.shapes import shapes_of
from cl_bench.errors import UserError
from cl_bench.importance.contributions import contributions_of
from cl_bench.methods.loki import LoKI, LoKIOptions
from cl_bench.methods.sft import SFT
from tests.helpers.architectures import tiny
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

OTHER = examples("other", 5)


def one_by_one(model: Any, item: Any, steps: int) -> list[Tensor]:
    """The contributions of every layer's rows for one prompt without its answer, by trapezoids."""
    prompt = torch.tensor([item.input_ids[: item.prompt_length]])
    layers = [layer.mlp.down_proj for layer in model.model.layers]
    predicted = int(model(input_ids=prompt).logits[0, -1].argmax())

    def run(layer: Any, ids: Tensor, put: Tensor | None) -> tuple[Tensor, Tensor]:
        seen = []

        def hook(*given: Any) -> Tensor | None:
            seen.append(given[-1])
            return put

        handle = layer.register_forward_hook(hook)
        logits = model(input_ids=ids).logits[0, -1]
        handle.remove()
        return seen[0].detach(), torch.softmax(logits, 0)[predicted]

    found = []
    for layer in layers:
        end, start = run(layer, prompt, None)[0], run(layer, torch.zeros_like(prompt), None)[0]
        gradients = []
        for i in range(steps):
            point = (start + i / (steps - 1) * (end - start)).requires_grad_()
            gradients.append(torch.autograd.grad(run(layer, prompt, point)[1], point)[0][0, -1])
        mean = torch.stack([(a + b) / 2 for a, b in pairwise(gradients)])
        found.append(mean.mean(0) * (end - start)[0, -1])
    return found


def rows_by_hand(model: Any, items: list[Any], count: int) -> list[list[int]]:
    marks = torch.zeros(2, 32)
    for item in encode(items, TRAIN):
        for layer, values in enumerate(one_by_one(model, item, 10)):
            for row in sorted(range(32), key=lambda row: float(values[row]))[:count]:
                marks[layer, row] += 1
    return [sorted(sorted(range(32), key=lambda row: -float(own[row]))[:count]) for own in marks]


def test_contributions_are_those_of_each_prompt_alone() -> None:
    model: Any = model64()
    stage, _ = make_stage(model, OTHER, TRAIN)
    layers = [layer.mlp.down_proj for layer in model.model.layers]
    encoded = encode(OTHER, TRAIN)
    for batch in stage.batches(OTHER):
        found = list(contributions_of(model, batch, layers, 10))
        for place, number in enumerate(batch["example"].tolist()):
            for ours, theirs in zip(found, one_by_one(model, encoded[number], 10), strict=True):
                torch.testing.assert_close(ours[place], theirs, rtol=0, atol=1e-9)


def test_the_integral_sums_to_the_change_of_the_probability() -> None:
    """With all positions and many points it is complete; in the last layer only one counts."""
    model: Any = model64()
    item = encode(OTHER, TRAIN)[0]
    values = one_by_one(model, item, 150)[-1]
    prompt = torch.tensor([item.input_ids[: item.prompt_length]])
    layer = model.model.layers[-1].mlp.down_proj
    logits = model(input_ids=prompt).logits[0, -1]
    predicted = int(logits.argmax())
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda *given: seen.append(given[-1]))
    model(input_ids=torch.zeros_like(prompt))
    handle.remove()
    handle = layer.register_forward_hook(lambda *_: seen[0])
    without = torch.softmax(model(input_ids=prompt).logits[0, -1], 0)[predicted]
    handle.remove()
    change = torch.softmax(logits, 0)[predicted] - without
    assert float(values.sum()) == pytest.approx(float(change), abs=1e-6)


def shelf(stage: Any) -> None:
    stage.library = SimpleNamespace(task_examples=lambda name: {"other": OTHER}[name])


@pytest.mark.parametrize("task", ["other", None])
def test_loki_trains_the_rows_that_other_data_use_least(task: str | None) -> None:
    start: Any = model64()
    other = OTHER if task else OLD
    rows = rows_by_hand(copy.deepcopy(start), other, 6)
    expected, model = copy.deepcopy(start), copy.deepcopy(start)

    def mask(gradients: Gradients) -> None:
        for name, gradient in gradients.items():
            keep = torch.zeros_like(gradient)
            if "down_proj" in name:
                keep[rows[int(name.split(".")[2])]] = 1
            gradient *= keep

    reference_training(expected, NEW, TRAIN, 2, index=2, before_step=mask)
    stage, batcher = make_stage(model, NEW, TRAIN, 2, [("old", OLD)])
    shelf(stage)
    method = LoKI(LoKIOptions(task=task, share=0.2, examples=9))
    run_method(method, stage, batcher, 2)
    assert_close(weights(model), weights(expected))
    for name, value in weights(model).items():
        frozen = torch.ones(len(value), dtype=torch.bool)
        if "down_proj" in name:
            frozen[rows[int(name.split(".")[2])]] = False
        assert torch.equal(value[frozen], weights(start)[name][frozen])
    kept = method.state().tensors
    if task is None:
        assert not kept
    else:
        assert [rows.tolist() for rows in kept.values()] == rows
        later, _ = make_stage(model, OLD, TRAIN, 3)  # without the other data
        shelf(later)
        again = LoKI(method.options)
        again.load_state(method.state())
        plan = again.plan(later)
        assert plan is not None and [s.index.tolist() for s in plan.selections.values()] == rows  # type: ignore[union-attr]


def test_without_other_data_the_first_stage_is_plain_fine_tuning() -> None:
    plain, ours = model64(), model64()
    run_method(SFT(), *make_stage(plain, NEW, TRAIN), 1)
    run_method(LoKI(), *make_stage(ours, NEW, TRAIN), 1)
    assert_close(weights(ours), weights(plain), 0)


def test_layers_of_other_models_are_named_and_missing_ones_refused() -> None:
    gpt2 = tiny("gpt2", torch.float64)
    with pytest.raises(UserError, match="module: down_proj: no linear layer"):
        LoKI().trains(shapes_of(gpt2))
    stage, batcher = make_stage(gpt2, NEW, TRAIN, 2, [("old", OLD)])
    before = weights(gpt2)
    method = LoKI(LoKIOptions(module="mlp.c_proj", share=0.25, examples=3, steps=2))
    run_method(method, stage, batcher, 1)
    for name, value in weights(gpt2).items():
        moved = value != before[name]
        columns = moved.any(0) if "mlp.c_proj" in name and value.dim() > 1 else moved
        assert int(columns.sum()) == (4 if "mlp.c_proj" in name else 0), name
