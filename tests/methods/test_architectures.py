"""FGGM and MIGU on layers that are not `nn.Linear`, and what the plan counts for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cl_bench.config.schema import TrainConfig
from cl_bench.costs.shapes import meta_shapes, shapes_of
from cl_bench.costs.trained import everything
from cl_bench.methods.fggm import FGGM, FGGMOptions
from cl_bench.methods.migu import MIGU, MIGUOptions
from cl_bench.models.layouts import layouts
from cl_bench.training.loss import model_inputs
from cl_bench.training.selective_update import SelectiveUpdate
from tests.helpers.architectures import CONFIGS, tiny
from tests.helpers.reference import examples, make_stage, run_method, weights

ALL = ["llama", "gpt2", "gpt_neox", "mixtral", "gpt_oss", "mamba", "phi3", "bloom"]
TRAIN = TrainConfig(lr=1e-2, batch_size=6)


def units_first(name: str, parameter: str, value: Tensor) -> Tensor:
    """The output units of each weight, as its architecture has them: [experts, units, inputs]."""
    if "experts" in parameter and not parameter.endswith("bias"):
        return value.transpose(1, 2) if name == "gpt_oss" else value
    linear = value.t() if name == "gpt2" and "transformer.h" in parameter else value
    return linear.reshape(1, len(linear), -1)


def is_weight(parameter: str, value: Tensor) -> bool:
    embedding = any(part in parameter for part in ("embed", "wte", "wpe", "lm_head"))
    return value.dim() > 1 and not embedding and not parameter.endswith("bias")


@pytest.mark.parametrize("score", ["fisher", "random"])
@pytest.mark.parametrize("name", ALL)
def test_fggm_freezes_whole_output_units_of_every_weight(name: str, score: Any) -> None:
    model = tiny(name)
    before = weights(model)
    method = FGGM(FGGMOptions(alpha=0.5, score=score))
    stage, batcher = make_stage(model, examples("t", 6), TRAIN)
    run_method(method, stage, batcher, epochs=1)
    assert "single_entries" not in stage.notes
    moved_somewhere = 0
    for parameter, value in weights(model).items():
        if not is_weight(parameter, value):
            continue
        moved = units_first(name, parameter, value != before[parameter])
        units = moved.shape[1]
        for matrix in moved:
            trained = int(matrix.any(1).sum())
            assert trained <= -(-units // 2), parameter
            moved_somewhere += trained
            if trained and score == "fisher" and "A_log" not in parameter:
                assert trained >= units // 4, parameter
    assert moved_somewhere > 0


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "mamba", "gpt2"])
@pytest.mark.parametrize("aggregation", ["input", "output", "none"])
def test_the_plan_counts_what_the_engine_trains(name: str, aggregation: Any) -> None:
    model = tiny(name, torch.float32)
    method = FGGM(FGGMOptions(alpha=0.5, score="random", aggregation=aggregation))
    cost = method.trains(shapes_of(model))
    stage, _ = make_stage(model, examples("t", 4), TRAIN)
    plan = method.plan(stage)
    assert plan is not None
    with SelectiveUpdate(model, plan) as engine:
        held = engine.nbytes()
        assert cost.entries == sum(grad.numel() for grad in engine.grads.values())
    assert {key: getattr(cost, key) for key in held} == held
    scored = sum(p.numel() for n, p in model.named_parameters() if n in plan.selections)
    assert stage.notes["trained_share"] == pytest.approx(cost.entries / scored, abs=1e-6)


def magnitudes(model: Any, batch: Any) -> dict[str, Tensor]:
    """|output| of every linear layer and expert, summed; experts one token at a time."""
    found: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("lm_head"):
            hooks.append(
                module.register_forward_hook(
                    lambda m, a, out, name=name: found.update(
                        {f"{name}.weight": out.abs().flatten(0, -2).sum(0)}
                    )
                )
            )
        if name.endswith("experts"):
            hooks.append(
                module.register_forward_hook(
                    lambda m, args, out, name=name: found.update(_experts(m, name, *args))
                )
            )
    with torch.no_grad():
        model(**model_inputs(model, batch))
    for hook in hooks:
        hook.remove()
    return found


def _experts(
    module: Any, name: str, hidden: Tensor, chosen: Tensor, _: Tensor
) -> dict[str, Tensor]:
    turned = module.gate_up_proj.shape[1] == hidden.shape[1]
    first, second = module.gate_up_proj, module.down_proj
    sides = (2, 2) if turned else (1, 1)
    ups = torch.zeros(len(first), first.shape[sides[0]], dtype=hidden.dtype)
    downs = torch.zeros(len(second), second.shape[sides[1]], dtype=hidden.dtype)
    for token, experts in zip(hidden, chosen.tolist(), strict=True):
        for e in experts:
            up = token @ (first[e] if turned else first[e].t())
            if module.has_bias:
                up = up + module.gate_up_proj_bias[e]
            down = module._apply_gate(up) @ (second[e] if turned else second[e].t())
            if module.has_bias:
                down = down + module.down_proj_bias[e]
            ups[e] += up.abs()
            downs[e] += down.abs()
    return {f"{name}.gate_up_proj": ups, f"{name}.down_proj": downs}


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss", "gpt_neox"])
def test_migu_masks_the_quietest_units_of_every_expert(name: str) -> None:
    model = tiny(name)
    before = weights(model)
    stage, batcher = make_stage(model, examples("t", 6), TRAIN, index=2)
    (batch,) = list(stage.batches(stage.examples))
    expected = magnitudes(model, batch)
    run_method(MIGU(MIGUOptions(threshold=0.7)), stage, batcher, epochs=1)
    after = weights(model)
    for parameter, size in expected.items():
        moved = units_first(name, parameter, after[parameter] != before[parameter]).any(2)
        for member, own in zip(moved, size.view(len(moved), -1), strict=True):
            if own.any():  # an expert that no token went through has no gradient
                keep = own >= own.quantile(0.7)
                assert not member[~keep].any(), parameter
                assert member[keep].any(), parameter
    experts = "experts" in str(expected)
    assert ("not_masked" in stage.notes) == experts
    if experts:
        (router,) = stage.notes["not_masked"]
        assert router.endswith(("gate.weight", "router.weight"))


def test_migu_masks_conv1d_and_says_what_it_does_not_reach() -> None:
    model = tiny("gpt2")
    before = weights(model)
    stage, batcher = make_stage(model, examples("t", 6), TRAIN, index=2)
    run_method(MIGU(MIGUOptions(threshold=0.5)), stage, batcher, epochs=1)
    moved = (
        weights(model)["transformer.h.1.mlp.c_fc.weight"]
        != before["transformer.h.1.mlp.c_fc.weight"]
    )
    assert int(moved.any(0).sum()) == 32 and bool(moved.any(1).all())
    assert "not_masked" not in stage.notes
    model = tiny("mamba", torch.float32)
    stage, batcher = make_stage(model, examples("t", 6), TRAIN, index=2)
    run_method(MIGU(), stage, batcher, epochs=1)
    parts = ("mixer.A_log", "mixer.conv1d.weight", "mixer.dt_proj.weight")
    assert stage.notes["not_masked"] == [f"backbone.layers.*.{part}" for part in parts]
    (said,) = MIGU().adds(shapes_of(model)).remarks
    assert "trained in full" in said and "conv1d" in said


@pytest.mark.parametrize("name", ["llama4", "jetmoe", "dbrx", "mixtral"])
def test_the_plan_of_migu_counts_and_names_what_a_run_reaches(name: str) -> None:
    model = tiny(name, torch.float32)
    cost = MIGU().adds(shapes_of(model))
    stage, batcher = make_stage(model, examples("t", 2), TRAIN, index=2)
    method = MIGU()
    method.prepare(stage)
    untied = 0 if model.get_output_embeddings().weight is model.get_input_embeddings().weight else 1
    rows = sum(value.numel() for value in method._magnitude.values()) + 259 * untied
    method.finish(stage)
    stage.notes.clear()
    run_method(MIGU(), stage, batcher, epochs=1)
    assert cost.memory.held == (4 + 2 * 8) * rows
    (said,) = cost.remarks
    assert said == f"not masked, trained in full: {', '.join(stage.notes['not_masked'])}"
    assert ("experts" in said or "input_linear" in said) == (name != "mixtral")


def test_units_and_work_of_experts_that_transformers_does_not_mark() -> None:
    model = tiny("dbrx", torch.float32)
    glu: Any = model.transformer.blocks[0].ffn.experts.mlp
    x, inner = torch.rand(2, 16), slice(0, 24)
    before = glu(x, glu.w1[inner], glu.v1[inner], glu.w2[inner])
    with torch.no_grad():
        glu.w2[:, 5] += 1  # one output unit of every expert
    moved = glu(x, glu.w1[inner], glu.v1[inner], glu.w2[inner]) != before
    assert moved.any(0).nonzero().flatten().tolist() == [5]
    found = layouts(model)
    units = [found[f"transformer.blocks.0.ffn.experts.mlp.{w}"].units for w in ("w1", "v1", "w2")]
    assert units == [(0,), (0,), (1,)]
    attention, router = 16 * (16 + 2 * 8) + 16 * 16, 16 * 3
    assert shapes_of(model).products == 2 * (attention + router + 2 * 3 * 24 * 16)
    llama4 = shapes_of(tiny("llama4", torch.float32))  # a token passes all experts there
    assert llama4.products == 2 * (2 * 16 * (16 + 8) + router + (3 + 1) * 3 * 24 * 16)


@pytest.mark.parametrize(
    ("name", "active"), [("mixtral", 2 * 3 * 24), ("olmoe", 2 * 3 * 24), ("qwen3_moe", 2 * 3 * 12)]
)
def test_experts_are_counted_as_far_as_a_token_goes(name: str, active: int) -> None:
    config = CONFIGS[name]()
    shapes = meta_shapes(config.to_dict(), 4)
    attention = 16 * (16 + 8 + 8 + 16)
    layer = attention + 3 * 16 + active * 16
    assert shapes.products == 2 * layer
    cost = everything(shapes)
    assert cost.flops_per_token == 6 * 2 * layer
    assert cost.weights == 4 * sum(p.numel() for p in tiny(name).parameters())
    masked = FGGM(FGGMOptions(alpha=0.5)).trains(shapes)
    assert masked.flops_per_token == 6 * 2 * layer - 2 * 2 * attention // 2
    assert "experts" in masked.adds.remarks[0]


def test_conv1d_rows_save_what_linear_rows_save() -> None:
    shapes = shapes_of(tiny("gpt2"))
    cost = FGGM(FGGMOptions(alpha=0.5)).trains(shapes)
    assert cost.flops_per_token == 5 * shapes.products and not cost.adds.remarks
    assert layouts(tiny("gpt2"))["transformer.h.0.attn.c_attn.weight"].units == (1,)
