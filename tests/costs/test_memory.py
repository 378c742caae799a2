"""Counted bytes against the bytes the engine holds; `tests/costs/test_cost.py` has methods."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cl_bench.config.schema import TrainConfig
from cl_bench.costs.activations import MicroBatch, activation_bytes, largest_micro_batch
from cl_bench.costs.model_shapes import known_models
from cl_bench.costs.shapes import Shapes, decoder_shapes, shapes_of
from cl_bench.costs.total import alone
from cl_bench.costs.trained import everything, masked, only
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.update_plan import Columns, Elements, Frozen, Full, Rows, UpdatePlan

pytestmark = pytest.mark.usefixtures("one_thread")


def held(trained):
    return alone(trained).memory


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
def test_a_mask_is_what_the_engine_holds(dtype, granularity, embeddings):
    model = model_of(dtype)
    cost = masked(shapes_of(model), 0.7, granularity, embeddings)
    with SelectiveUpdate(model, quantile_plan(model, granularity, embeddings)) as engine:
        held = engine.nbytes()
        trained = sum(grad.numel() for grad in engine.grads.values())
        assert abs(cost.entries - trained) <= len(engine.grads)  # random scores can tie
    counted = {k: getattr(cost, k) for k in ("weights", "gradients", "optimiser")}
    assert counted == pytest.approx(held, rel=0.001)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_training_is_what_the_engine_holds(dtype):
    model = model_of(dtype)
    cost = alone(everything(shapes_of(model)))
    with SelectiveUpdate(model, UpdatePlan()) as engine:
        assert sum(engine.nbytes().values()) == cost.memory


def test_training_some_parameters_is_what_the_engine_holds():
    model = model_of(torch.bfloat16)
    cost = only(shapes_of(model), lambda name: "norm" in name)
    plan = UpdatePlan({n: Full() for n, _ in model.named_parameters() if "norm" in n}, Frozen())
    with SelectiveUpdate(model, plan) as engine:
        assert {key: getattr(cost, key) for key in engine.nbytes()} == engine.nbytes()


def test_thirty_percent_of_rows_holds_less_than_half_of_full_training():
    shapes = shapes_of(model_of(torch.bfloat16, layers=12))
    assert held(masked(shapes, 0.7, "rows", False)) <= 0.45 * held(everything(shapes))


def test_the_largest_micro_batch_is_what_train_allows():
    train = TrainConfig(max_prompt_tokens=100, max_answer_tokens=27, batch_size=128)
    assert largest_micro_batch(train) == MicroBatch(2048, 128, 448, padded=True)
    one = train.model_copy(update={"micro_batch_tokens": 60})
    assert largest_micro_batch(one) == MicroBatch(128, 128, 28, padded=False)
    small = train.model_copy(update={"batch_size": 4})
    assert largest_micro_batch(small).tokens == 512
    fixed = train.model_copy(update={"micro_batch_size": 3})
    assert largest_micro_batch(fixed) == MicroBatch(384, 128, 84, padded=True)


def test_activations_of_an_unknown_architecture_are_refused():
    shapes = Shapes({"h.weight": (4, 4)})
    with pytest.raises(ValueError, match="Llama-like"):
        activation_bytes(shapes, alone(everything(shapes)), MicroBatch(8, 8, 1))


@pytest.mark.parametrize(
    ("model", "billions", "full", "rows"),
    [
        ("Qwen/Qwen2-0.5B", 0.494, 7.9, 2.5),
        ("Qwen/Qwen2-1.5B", 1.544, 24.7, 8.6),
        ("Qwen/Qwen2-7B", 7.616, 121.8, 42.6),
    ],
)
def test_state_of_published_sizes(model, billions, full, rows):
    """GB with 16-bit gradients: 16 bytes an entry, and 30 % of the rows of block matrices.

    The engine keeps gradients of trained entries in float32: 2 bytes more for each.
    """
    shapes = decoder_shapes(known_models()[model])
    assert shapes.numel / 1e9 == pytest.approx(billions, abs=5e-4)
    whole, share = everything(shapes), masked(shapes, 0.7, "rows", embeddings=False)
    assert (held(whole) - 2 * whole.entries) / 1e9 == pytest.approx(full, abs=0.1)
    assert (held(share) - 2 * share.entries) / 1e9 == pytest.approx(rows, abs=0.1)
    assert share.flops_per_token / whole.flops_per_token == pytest.approx(0.77, abs=0.005)
