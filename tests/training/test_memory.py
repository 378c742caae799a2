"""Counted bytes against the bytes the engine and autograd hold."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cl_bench.training import matmul
from cl_bench.training.engine import SelectiveUpdate
from cl_bench.training.loss import answer_loss
from cl_bench.training.memory import (
    activation_bytes,
    full_cost,
    lora_cost,
    masked_cost,
    shapes_from_config,
    shapes_of,
)
from cl_bench.training.plan import Columns, Elements, Frozen, Full, Rows, UpdatePlan
from tests.tiny import tiny_model
from tests.training.selective_oracle import random_batch


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(dtype, kv_heads=2, layers=3):
    config = LlamaConfig(
        vocab_size=600,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(dtype).train()


def quantile_plan(model, granularity, embeddings):
    """Random scores above their 0.7-quantile, as FGGM selects."""
    selections = {}
    for name, p in model.named_parameters():
        if "embed" in name or "lm_head" in name:
            selections[name] = Full() if embeddings else Frozen()
        elif p.dim() == 1 or granularity == "elements":
            scores = torch.rand(p.shape)
            selections[name] = Elements(scores > scores.flatten().quantile(0.7))
        else:
            scores = torch.rand(p.shape[0 if granularity == "rows" else 1])
            index = (scores > scores.quantile(0.7)).nonzero().squeeze(1)
            selections[name] = Rows(index) if granularity == "rows" else Columns(index)
    return UpdatePlan(selections)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("granularity", ["rows", "columns", "elements"])
@pytest.mark.parametrize("embeddings", [False, True])
def test_masked_cost_is_what_the_engine_holds(dtype, granularity, embeddings):
    model = model_of(dtype)
    cost = masked_cost(shapes_of(model), 0.3, granularity, embeddings)
    with SelectiveUpdate(model, quantile_plan(model, granularity, embeddings)) as engine:
        held = engine.nbytes()
        trained = sum(grad.numel() for grad in engine.grads.values())
        assert abs(cost.trained - trained) <= len(engine.grads)  # random scores can tie
    counted = {k: getattr(cost, k) for k in ("weights", "gradients", "optimiser")}
    assert counted == pytest.approx(held, rel=0.001)
    assert cost.total == pytest.approx(sum(held.values()), rel=0.001)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_cost_is_what_the_engine_holds(dtype):
    model = model_of(dtype)
    cost = full_cost(shapes_of(model))
    with SelectiveUpdate(model, UpdatePlan()) as engine:
        assert sum(engine.nbytes().values()) == cost.total


def test_lora_cost_is_what_the_engine_holds():
    from peft import LoraConfig, get_peft_model

    base = model_of(torch.bfloat16)
    cost = lora_cost(shapes_of(base), 4, ("q_proj", "v_proj"))
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    frozen = {n: Frozen() for n, p in model.named_parameters() if not p.requires_grad}
    with SelectiveUpdate(model, UpdatePlan(frozen)) as engine:
        assert engine.nbytes() == {
            "weights": cost.weights,
            "gradients": cost.gradients,
            "optimiser": cost.optimiser,
        }


def test_thirty_percent_of_rows_holds_less_than_half_of_full_training():
    shapes = shapes_of(model_of(torch.bfloat16, layers=12))
    assert masked_cost(shapes, 0.3, "rows", False).total <= 0.45 * full_cost(shapes).total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("vectors", [False, True])
def test_activation_bytes_are_what_autograd_saves(dtype, kv_heads, padded, vectors):
    model = model_of(dtype, kv_heads)
    batch = random_batch(600, [(40, 8), (40, 8), (30 if padded else 40, 8)], "left", 0)
    frozen = {n: Frozen() for n, p in model.named_parameters() if p.dim() == 1 and not vectors}
    saved: dict[int, int] = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with SelectiveUpdate(model, UpdatePlan(frozen)) as engine:
        held = [*model.parameters(), *engine.masters.values()]
        own = {t.untyped_storage().data_ptr() for t in held}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss, _ = answer_loss(model, batch, 1.0)
    measured = sum(size for address, size in saved.items() if address not in own)
    widened = matmul.widens(next(model.parameters()))
    counted = activation_bytes(
        shapes_of(model), 3, 48, 24, vectors=vectors, padded=padded, widened=widened
    )
    assert counted == pytest.approx(measured, rel=0.03)
    assert loss.item() > 0


def test_the_checkpoint_on_disk_has_the_counted_bytes(tmp_path):
    model = model_of(torch.bfloat16)
    model.save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert full_cost(shapes_of(model)).checkpoint == pytest.approx(size, rel=0.05)


def test_shapes_come_from_a_config_without_loading_weights(tmp_path):
    model = tiny_model(kind="qwen2", tie=True, dtype=torch.bfloat16)
    model.config.save_pretrained(tmp_path)
    assert shapes_from_config(str(tmp_path)) == shapes_of(model)


def test_seven_billion_parameters_as_in_the_reference_table():
    """Qwen2-7B: 121.8 GB at 16 bytes a parameter; float32 gradients make it 18."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    )
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    shapes = shapes_of(model)
    assert shapes.numel == pytest.approx(7.616e9, rel=1e-3)
    assert full_cost(shapes).total == 18 * shapes.numel
    assert masked_cost(shapes, 0.3, "rows", True).total / 1e9 == pytest.approx(64.3, rel=0.02)
    assert masked_cost(shapes, 0.3, "rows", False).total / 1e9 == pytest.approx(46.6, rel=0.02)
