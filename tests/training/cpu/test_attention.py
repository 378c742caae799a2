"""Attention in chunks against torch's, with masks of either padding side and grouped heads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cl_bench.training.cpu import attention
from tests.helpers.selective_oracle import plain_loss, random_batch
from tests.helpers.tiny import tiny_model


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(attention, "_CHUNK", 4)
    yield
    torch.set_num_threads(threads)


def plain(query, key, value, mask):
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    return nn.functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 30), masked=st.booleans())
def test_equals_torchs_attention(seed, length, masked):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 4, length, 8), (2, 2, length, 8), (2, 2, length, 8)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    padding = torch.ones(2, 1, 1, length, dtype=torch.bool)
    padding[1, ..., : length // 3] = False
    seen = (causal & padding) | torch.eye(length, dtype=torch.bool) if masked else None
    layer = nn.Module()
    layer.num_key_value_groups = 2
    mine, _ = attention._on_cpu(layer, *tensors, seen)
    expected = plain(*tensors, causal if seen is None else seen)
    torch.testing.assert_close(mine, expected)
    weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(mine, tensors, weight),
        torch.autograd.grad(expected, tensors, weight),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_mask_that_is_not_causal_is_left_to_torch():
    length = 20
    query = torch.randn(1, 2, length, 8)
    everything = torch.ones(1, 1, length, length, dtype=torch.bool)
    assert not attention._is_causal(query, query, query, everything)
    assert attention._is_causal(query, query, query, everything.tril())
    mine, _ = attention._on_cpu(nn.Module(), query, query, query, everything)
    torch.testing.assert_close(mine, plain(query, query, query, everything))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_model_gives_the_same_loss_and_comes_back(side):
    model = tiny_model(61, "qwen2", dtype=torch.float64)
    batch = random_batch(61, [(20, 5), (9, 2), (3, 1)], side, seed=0)
    expected = plain_loss(model, batch, 1.0)
    with attention.cpu_attention(model):
        assert model.config._attn_implementation != "sdpa"
        torch.testing.assert_close(plain_loss(model, batch, 1.0), expected)
    assert model.config._attn_implementation == "sdpa"
