"""LoRA's options: scale, DoRA, beginnings of the adapter, and a new one in every stage."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cl_bench.config.schema import ExperimentConfig
from cl_bench.costs.shapes import shapes_of
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve
from cl_bench.methods.adapter_checks import continuity_faults
from cl_bench.methods.lora import LoRA, LoRAOptions
from cl_bench.methods.static_checks import stage_faults
from cl_bench.methods.targets import adapter_shapes
from tests.helpers.architectures import tiny
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    Gradients,
    all64,
    assert_close,
    make_stage,
    reference_training,
    run_method,
    weights,
)
from tests.helpers.sequences import run_sequence
from tests.helpers.tiny import tiny_model

PLAIN = {"r": 2, "lora_alpha": 4, "dropout": 0.0}


def lora(**options: Any) -> LoRA:
    return LoRA(LoRAOptions.model_validate({**PLAIN, **options}))


def wrapped(model: nn.Module, method: LoRA, index: int = 1) -> Any:
    stage, _ = make_stage(model, NEW, TRAIN, index)
    method.prepare(stage)
    return stage.model


def adapters(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


def by_formula(model: nn.Module, scale: float, dora: bool = False) -> Gradients:
    """The plain model's weights with the adapters in them: W + s B A, rows rescaled by DoRA."""
    own = weights(model)
    found = {}
    for name, value in own.items():
        plain = name.removeprefix("base_model.model.")
        if ".lora_" in name:
            continue
        if ".base_layer." in name:
            layer = name.removesuffix(".base_layer.weight")
            a, b = own[f"{layer}.lora_A.default.weight"], own[f"{layer}.lora_B.default.weight"]
            value = value + scale * b @ a
            if dora:
                magnitude = own[f"{layer}.lora_magnitude_vector.default.weight"]
                value = magnitude[:, None] * value / value.norm(dim=1, keepdim=True)
        found[plain.replace(".base_layer", "")] = value
    return found


@pytest.mark.parametrize(
    ("options", "scale", "dora"),
    [
        ({"rslora": True}, 4 / math.sqrt(2), False),
        ({"use_dora": True}, 2.0, True),
        ({"init": "gaussian"}, 2.0, False),
        ({"init": "orthogonal"}, 2.0, False),
    ],
)
def test_an_adapter_of_each_kind(options: Any, scale: float, dora: bool) -> None:
    base = all64(layers=1)
    expected = wrapped(copy.deepcopy(base), lora(**options))
    assert len(adapters(expected)) == (6 if dora else 4)
    product_is_0 = 1e-6 if "orthogonal" in options.values() else 1e-12  # PEFT's are in float32
    assert_close(by_formula(expected, scale, dora), weights(base), product_is_0)
    reference_training(expected, NEW, TRAIN, 1, trained=adapters(expected))
    stage, batcher = make_stage(copy.deepcopy(base), NEW, TRAIN)
    run_method(lora(**options), stage, batcher, epochs=1)
    assert_close(weights(stage.model), weights(expected))
    merged = by_formula(stage.model, scale, dora)
    assert_close(weights(stage.model.merge_and_unload()), merged)
    moved = [name for name, value in weights(base).items() if not torch.equal(merged[name], value)]
    assert len(moved) == 2 and all("q_proj" in name or "v_proj" in name for name in moved)


def test_a_gaussian_beginning_is_another_one() -> None:
    a = [
        weights(wrapped(all64(layers=1), lora(init=init)))[
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
        ]
        for init in ("kaiming", "gaussian", "orthogonal")
    ]
    assert not torch.allclose(a[0], a[1]) and not torch.allclose(a[0], a[2])


def test_a_new_adapter_in_every_stage_on_weights_with_the_old_ones() -> None:
    start = all64(layers=1)
    expected = copy.deepcopy(start)
    firsts: list[Tensor] = []
    for index, items in enumerate((OLD, NEW, OLD), 1):
        adapted = wrapped(copy.deepcopy(expected), lora(incremental=True), index)
        firsts.append(next(p for n, p in adapted.named_parameters() if "lora_A" in n).clone())
        reference_training(adapted, items, TRAIN, 1, index=index, trained=adapters(adapted))
        expected.load_state_dict(by_formula(adapted, 2.0), strict=False)
    ended = run_sequence(
        lambda: lora(incremental=True), copy.deepcopy(start), (OLD, NEW, OLD), TRAIN
    )
    assert_close(ended[-1].weights, weights(expected))
    assert not torch.equal(firsts[0], firsts[1]) and not torch.equal(firsts[1], firsts[2])


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_adapter_that_begins_as_a_part_of_the_weights(init: str) -> None:
    base = tiny_model(layers=1)
    model = wrapped(copy.deepcopy(base), lora(init=init, incremental=True))
    assert_close(by_formula(model, 2.0), weights(base), 1e-6)
    own = weights(model)
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    part = 2.0 * (own[f"{layer}.lora_B.default.weight"] @ own[f"{layer}.lora_A.default.weight"])
    whole = weights(base)["model.layers.0.self_attn.q_proj.weight"]
    if init == "pissa":
        u, s, v = torch.linalg.svd(whole.double())
        best = (u[:, :2] * s[:2]) @ v[:2]
    else:
        q, r = torch.linalg.qr(whole.double())
        best = 2.0 * q[:, :2] @ r[:2]  # PEFT scales it as any adapter
    assert float((part.double() - best).abs().max()) < 1e-5
    (ended,) = run_sequence(
        lambda: lora(init=init, incremental=True), copy.deepcopy(base), (NEW,), TRAIN
    )
    assert ended.weights.keys() == weights(base).keys()
    moved = {n for n, v in ended.weights.items() if not torch.equal(v, weights(base)[n])}
    assert moved == {f"model.layers.0.self_attn.{kind}_proj.weight" for kind in "qv"}


@pytest.mark.parametrize("arch", ["mixtral", "gpt_oss"])
def test_stacks_of_experts(arch: str) -> None:
    base, stacks = tiny(arch), ["mlp.experts.down_proj"]
    options = {"target_parameters": stacks, "target_modules": ["q_proj"]}
    expected = wrapped(copy.deepcopy(base), lora(**options))
    names = adapters(expected)
    assert len(names) == 8 and sum("experts" in name for name in names) == 4
    reference_training(expected, NEW[:4], TRAIN, 2, trained=names)
    stage, batcher = make_stage(copy.deepcopy(base), NEW[:4], TRAIN)
    run_method(lora(**options), stage, batcher, epochs=2)
    assert_close(weights(stage.model), weights(expected), 1e-8)  # norms compute in float32
    ids = torch.arange(9)[None]
    with torch.no_grad():
        before = stage.model(input_ids=ids).logits
        merged = stage.model.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=ids).logits, before)
    plain = weights(base)
    moved = {n for n, v in weights(merged).items() if not torch.equal(v, plain[n])}
    layers = ("mlp.experts.down_proj", "self_attn.q_proj.weight")
    assert moved == {f"model.layers.{i}.{name}" for i in (0, 1) for name in layers}
    counted = lora(**options).trains(shapes_of(base))
    assert counted.entries == sum(expected.get_parameter(name).numel() for name in names)


def test_stacks_that_a_model_lacks_are_refused() -> None:
    wanted = LoRAOptions(dropout=0, target_parameters=["experts.up_proj"])
    with pytest.raises(UserError, match=r"experts.up_proj: .* has mlp.experts.down_proj, mlp.exp"):
        adapter_shapes(tiny("mixtral").config.to_dict(), wanted)
    with pytest.raises(UserError, match="which has none"):
        LoRA(wanted).trains(shapes_of(tiny_model()))


def runs(entry: Any, **second: Any) -> Any:
    data = {
        "name": "x",
        "model": {"path": "m"},
        "methods": [entry],
        "stages": [{"task": "FOMC"}, {"task": "C-STANCE", **second}],
    }

    class Found:
        runs = resolve(ExperimentConfig.model_validate(data)).runs

    return Found


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "lora", "init": "pissa"}, "init: pissa: takes the adapter out of the weights"),
        ({"compose": ["lora", "ewc"], "incremental": True}, "incremental: ewc remembers"),
        ({"name": "lora", "target_parameters": ["x"]}, "experts know no dropout"),
        (
            {"name": "lora", "target_parameters": ["x"], "dropout": 0, "use_dora": True},
            "not of stacks of experts",
        ),
        ({"name": "lora", "init": "pissa", "incremental": True}, None),
        ({"compose": ["lora", "replay"], "incremental": True}, None),
        ({"name": "lora", "init": "gaussian", "use_dora": True, "rslora": True}, None),
    ],
)
def test_what_would_be_in_no_checkpoint_is_refused(entry: Any, said: str | None) -> None:
    found = list(stage_faults(runs(entry)))
    assert (found == []) if said is None else said in found[0]


def test_only_an_adapter_that_goes_on_must_stay_the_same() -> None:
    assert list(continuity_faults(runs({"name": "lora", "incremental": True}, r=4))) == []
    for change in ({"use_dora": True}, {"rslora": True}, {"incremental": True}):
        (said,) = continuity_faults(runs("lora", **change))
        assert f"cannot have another {next(iter(change))}" in said


def test_costs_of_dora_and_of_whole_weights() -> None:
    model = tiny_model()
    shapes = shapes_of(model)
    plain, dora, whole = (
        lora(**options).trains(shapes)
        for options in ({}, {"use_dora": True}, {"incremental": True})
    )
    held = adapters(wrapped(tiny_model(), lora(use_dora=True)))
    parameters = dict(wrapped(tiny_model(), lora(use_dora=True)).named_parameters())
    assert dora.entries == sum(parameters[name].numel() for name in held)
    assert dora.entries - plain.entries == 2 * (32 + 16)
    assert whole.checkpoint == shapes.numel * shapes.dtype_bytes > plain.checkpoint
    found = adapter_shapes(model.config.to_dict(), LoRAOptions(init="pissa", incremental=True))
    assert len(found) == 8
