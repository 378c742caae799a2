"""Shapes laid out from config values against models that transformers builds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_bench.costs.shapes import decoder_shapes, meta_shapes, shapes_of
from tests.helpers.tiny import tiny_model


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["llama", "mistral", "qwen2"]),
    layers=st.integers(1, 3),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    head_dim=st.sampled_from([None, 8]),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(10, 50)),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_equals_the_model_that_transformers_builds(kind, layers, heads, head_dim, sizes, flags):
    hidden, intermediate, vocabulary = 24 * sizes[0], sizes[1], sizes[2]
    config = {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocabulary,
        "tie_word_embeddings": flags[0],
    }
    if head_dim is not None and kind != "qwen2":
        config["head_dim"] = head_dim
    if kind == "llama":
        config |= {"attention_bias": flags[1], "mlp_bias": flags[2]}
    assert decoder_shapes(config) == meta_shapes(config)


def test_keys_that_older_configs_leave_out_have_their_defaults():
    config = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 50,
    }
    assert decoder_shapes(config) == meta_shapes(config)
    with pytest.raises(KeyError, match="hidden_size"):
        decoder_shapes({key: config[key] for key in config if key != "hidden_size"})


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("tie", [False, True])
def test_of_a_loaded_model(kind, tie):
    model = tiny_model(kind=kind, tie=tie, dtype=torch.bfloat16)
    assert shapes_of(model) == decoder_shapes(model.config.to_dict())
    assert shapes_of(model).numel == sum(p.numel() for p in model.parameters())


def test_other_kinds_are_built_by_transformers_and_have_no_activations():
    config = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 30}
    assert decoder_shapes(config) is None
    shapes = meta_shapes(config, dtype_bytes=4)
    assert shapes.parameters["transformer.wte.weight"] == (30, 16)
    assert shapes.embeddings == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert shapes.architecture is None
