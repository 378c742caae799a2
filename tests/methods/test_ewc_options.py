"""EWC's modes, estimators and anchors against dense loops."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cl_bench.config.schema import ExperimentConfig
from cl_bench.costs.shapes import shapes_of
from cl_bench.costs.total import total
from cl_bench.experiment.resolve import resolve
from cl_bench.methods.compose import Composite
from cl_bench.methods.ewc import EWC, EWCOptions
from cl_bench.methods.fggm import FGGM, FGGMOptions
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    Gradients,
    all64,
    assert_close,
    encode,
    examples,
    fisher_loop,
    make_stage,
    reference_training,
    sample_loss,
    weights,
)
from tests.helpers.sequences import run_sequence
from tests.helpers.tiny import tiny_model

THIRD = examples("third", 7)
TASKS = (OLD, NEW, THIRD, OLD)
STRENGTH = 50.0
ROUNDED = 1e-9
"""F is kept in float64 for float64 models; nothing else is rounded."""


def ewc(**options: Any) -> Callable[[], EWC]:
    return lambda: EWC(EWCOptions.model_validate({"lambda": STRENGTH, **options}))


Terms = list[tuple[float, Gradients, Gradients]]
"""(weight, Fisher, anchor) of every pull."""


def pulled(
    model: nn.Module,
    remember: Callable[[list[tuple[Gradients, Gradients]]], Terms],
    fisher_of: Callable[[nn.Module, list[Any], int], Gradients],
) -> Gradients:
    """Four stages by hand; `remember` makes the terms of all (Fisher, weights) so far."""
    past: list[tuple[Gradients, Gradients]] = []
    for index, items in enumerate(TASKS, 1):
        terms = remember(past)

        def pull(gradients: Gradients, terms: Terms = terms) -> None:
            for weight, fisher, anchor in terms:
                for name, value in fisher.items():
                    parameter = model.get_parameter(name).detach()
                    gradients[name] += STRENGTH * weight * value * (parameter - anchor[name])

        reference_training(model, items, TRAIN, 1, index, before_step=pull)
        past.append((fisher_of(model, items, index), weights(model)))
    return weights(model)


def by_example(model: nn.Module, items: list[Any], index: int) -> Gradients:
    total = fisher_loop(model, encode(items, TRAIN))
    return {name: value / len(items) for name, value in total.items()}


def by_batch(model: nn.Module, items: list[Any], index: int) -> Gradients:
    stage, _ = make_stage(model, items, TRAIN, index)
    order = torch.randperm(len(items), generator=stage.generator("ewc batches")).tolist()
    encoded, parts = encode(items, TRAIN), [order[i : i + 4] for i in range(0, len(items), 4)]
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for part in parts:
        some = [encoded[i] for i in part]
        tokens = sum(len(one.input_ids) - max(one.prompt_length, 1) for one in some)
        model.zero_grad()
        torch.stack([sample_loss(model, one) for one in some]).sum().div(tokens).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad.detach() ** 2 / len(parts)
    model.zero_grad()
    return total


def online(count: int, gamma: float = 1.0) -> Callable[[Any], Terms]:
    """The mean of the pulls that the last `count` stages would give."""

    def remember(past: list[tuple[Gradients, Gradients]]) -> Terms:
        found: Terms = []
        total: Gradients = {}
        for fisher, anchor in past:
            total = {name: gamma * total.get(name, 0.0) + value for name, value in fisher.items()}
            found.append((1.0, total, anchor))
        last = found[-count:]
        return [(1 / len(last), fisher, anchor) for _, fisher, anchor in last]

    return remember


def per_task(count: int) -> Callable[[Any], Terms]:
    return lambda past: [(1.0, fisher, anchor) for fisher, anchor in past[-count:]]


@pytest.mark.parametrize(
    ("options", "remember", "fisher"),
    [
        ({"mode": "per_task"}, per_task(10), by_example),
        ({"mode": "per_task", "anchors": 2, "estimator": "batch"}, per_task(2), by_batch),
        ({"anchors": 2, "gamma": 0.5}, online(2, 0.5), by_example),
        ({"estimator": "batch"}, online(1), by_batch),
    ],
)
def test_what_pulls_is_what_the_mode_remembers(options: Any, remember: Any, fisher: Any) -> None:
    start = all64(layers=1)
    expected = pulled(copy.deepcopy(start), remember, fisher)
    last = run_sequence(ewc(**options), start, TASKS, TRAIN)[-1]
    assert_close(last.weights, expected, ROUNDED)
    if "mode" in options:
        assert last.state.records["ewc/stages"] == list(range(1, 5))[-options.get("anchors", 4) :]


def trace_by_hand(model: nn.Module, frozen: Gradients | None = None) -> Gradients:
    """TRACE's loop at a gradient accumulation of 1: F grows in every update, and pulls at once."""
    fisher = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for index, items in enumerate(TASKS, 1):
        anchor, per_epoch = weights(model), -(-len(items) // 4)

        def step(
            gradients: Gradients,
            index: int = index,
            anchor: Gradients = anchor,
            per_epoch: int = per_epoch,
        ) -> None:
            for name, gradient in gradients.items():
                if index > 1:
                    drift = model.get_parameter(name).detach() - anchor[name]
                    gradient += 0.5 * STRENGTH * 2 * fisher[name] * drift
                if frozen is not None:
                    gradient *= frozen[name]
                fisher[name] += gradient**2 / per_epoch

        reference_training(model, items, TRAIN, 2, index, before_step=step)
    return fisher


def test_trace_sums_its_fisher_while_it_trains() -> None:
    start = all64(layers=1)
    expected = copy.deepcopy(start)
    fisher = trace_by_hand(expected)
    last = run_sequence(ewc(mode="trace"), start, TASKS, TRAIN, epochs=2)[-1]
    assert_close(last.weights, weights(expected), ROUNDED)
    found = {name.removeprefix("ewc/"): value for name, value in last.state.tensors.items()}
    assert_close(found, fisher)
    mean = torch.cat([value.flatten() for value in fisher.values()]).mean()
    assert last.notes["lambda_times_mean_fisher"] == pytest.approx(STRENGTH * float(mean))
    assert "over updates an epoch" in last.notes["fisher"]


def test_trace_of_a_part_of_the_weights() -> None:
    """Squares of what a mask selects go to their places in the whole Fisher."""
    start = all64(layers=1)
    masks: list[Any] = []

    class Static(FGGM):
        def plan(self, stage: Any) -> Any:
            masks.append(super().plan(stage))
            return masks[0]  # one mask for all stages, so that the loop by hand stays short

    def make() -> Composite:
        return Composite([Static(FGGMOptions()), ewc(mode="trace")()])

    last = run_sequence(make, copy.deepcopy(start), TASKS, TRAIN, epochs=2)[-1]
    selected: Gradients = {}
    for name, parameter in start.named_parameters():
        dense = torch.zeros_like(parameter)
        selection = masks[0].of(name)
        if hasattr(selection, "index"):
            dense[selection.index] = 1.0
        elif hasattr(selection, "mask"):
            dense[selection.mask] = 1.0
        selected[name] = dense
    expected = copy.deepcopy(start)
    fisher = trace_by_hand(expected, selected)
    assert_close(last.weights, weights(expected), ROUNDED)
    found = {n.removeprefix("ewc/"): v for n, v in last.state.tensors.items() if "ewc/" in n}
    assert_close(found, fisher)


@pytest.mark.parametrize(
    ("options", "held"),
    [
        ({}, [1, 1]),
        ({"mode": "per_task"}, [0, 1]),
        ({"mode": "per_task", "anchors": 2}, [2, 2]),
        ({"anchors": 3}, [3, 3]),
        ({"mode": "trace"}, [1, 1]),
    ],
)
def test_every_stage_that_is_remembered_is_counted(options: Any, held: list[int]) -> None:
    """In stages without and with an earlier one: a Fisher and an anchor of every entry."""
    shapes = shapes_of(tiny_model(dtype=torch.bfloat16))
    method = ewc(**options)()
    counted = [total(method, shapes, earlier=n) for n in (0, 1)]
    assert [each.own / shapes.numel for each in counted] == [6 * n for n in held]
    saved = [each.state / shapes.numel / 4 for each in counted]
    assert saved == [max(n, 1) if "mode" not in options else saved[i] for i, n in enumerate(held)]
    (remark,) = counted[0].added.remarks
    assert remark.startswith(f"lambda {STRENGTH:g} times the ")
    if options == {"mode": "per_task"}:
        assert saved == [1, 2]


def faults(entry: dict[str, Any], *stages: dict[str, Any]) -> list[str]:
    data = {
        "name": "x",
        "model": {"path": "m"},
        "methods": [entry],
        "stages": [{"task": "FOMC"}, {"task": "C-STANCE"}, *stages],
    }
    stage = resolve(ExperimentConfig.model_validate(data)).runs[0].stages[1]
    method = next(part for part in stage.parts if part.method is EWC)
    return list(method.method(method.options).refuses(stage))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "ewc", "mode": "trace", "estimator": "batch"}, "estimator: mode: trace"),
        ({"name": "ewc", "mode": "trace", "anchors": 2}, "anchors: mode: trace"),
        ({"name": "ewc", "mode": "per_task", "gamma": 0.5}, "gamma: mode: per_task"),
        ({"compose": ["lora", "ewc"], "mode": "per_task"}, "the earlier weights of an adapter"),
        ({"compose": ["lora", "ewc"], "anchors": 2}, "the earlier weights of an adapter"),
        ({"compose": ["lora", "ewc"], "mode": "trace"}, None),
        ({"name": "ewc", "anchors": 3, "gamma": 0.5}, None),
    ],
)
def test_what_a_mode_has_no_use_for_is_refused(entry: Any, said: str | None) -> None:
    found = faults(entry)
    assert (found == []) if said is None else found[0].startswith(said)


def test_a_memory_of_another_kind_is_refused() -> None:
    from cl_bench.methods.adapter_checks import continuity_faults

    def check(**change: Any) -> list[str]:
        data = {
            "name": "x",
            "model": {"path": "m"},
            "methods": ["ewc"],
            "stages": [{"task": "FOMC"}, {"task": "C-STANCE", **change}],
        }

        class Found:
            runs = resolve(ExperimentConfig.model_validate(data)).runs

        return list(continuity_faults(Found))  # type: ignore[arg-type]

    assert check(gamma=0.5) == []
    (said,) = check(mode="per_task")
    assert "cannot have another mode; give both stages the same" in said
