"""Packed linear layers compute what torch's do and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cl_bench.evaluation.shared_prefix import cpu_packed_weights as packed_linear
from cl_bench.evaluation.shared_prefix.cpu_packed_weights import packed_linears
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from tests.helpers.engine_oracle import requests
from tests.helpers.tiny import byte_tokenizer, tiny_model

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = [
    pytest.param(
        dtype,
        marks=pytest.mark.skipif(
            not packed_linear._packs(dtype), reason="this machine's torch does not pack it"
        ),
    )
    for dtype in TOLERANCES
]


class Subclass(nn.Linear):
    """A layer that may do anything else in its forward."""


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    bias=st.sampled_from(["none", "plain", "strided"]),
    strided=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_same_products_for_any_shape_and_stride(dtype, shape, sizes, bias, strided, seed):
    random = torch.Generator().manual_seed(seed)
    layer = nn.Linear(*sizes, bias=bias != "none").to(dtype)
    if bias == "strided":
        layer.bias = nn.Parameter(torch.randn(sizes[1], 3, generator=random).to(dtype)[:, 1])
    x = torch.randn(*shape, sizes[0] * 2, generator=random).to(dtype)
    x = x[..., ::2] if strided else x[..., : sizes[0]]
    with torch.no_grad():
        expected = layer(x)
        with packed_linears(layer) as count:
            assert count == 1
            found = layer(input=x)
    assert found.shape == expected.shape and found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


def test_layers_that_are_not_plain_stay_as_they_are():
    plain = nn.Linear(4, 4)
    patched, wide = nn.Linear(4, 4), nn.Linear(4, 4).double()
    patched.forward = lambda x: x + 1
    layers = nn.ModuleList([plain, patched, wide, Subclass(4, 4)])
    with packed_linears(layers) as count:
        assert count <= 1
        assert patched.forward(1) == 2
        assert "forward" not in vars(wide) and "forward" not in vars(layers[3])
    assert "forward" not in vars(plain) and "forward" in vars(patched)


@pytest.mark.parametrize("dtype", DTYPES[:1])
def test_hooks_run_and_a_failure_restores(dtype):
    layer, seen = nn.Linear(4, 4), []
    layer.register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(RuntimeError, match="stop"), torch.no_grad(), packed_linears(layer):
        layer(torch.ones(1, 4))
        raise RuntimeError("stop")
    assert seen == [1] and "forward" not in vars(layer)


def test_no_copy_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(packed_linear, "MEMORY_SHARE", 0.0)
    with packed_linears(nn.Linear(4, 4)) as count:
        assert count == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_engine_generates_the_same_and_sees_new_weights(dtype, monkeypatch):
    model = tiny_model().to(dtype)
    engine = SharedPrefixLM(model, byte_tokenizer())
    asked = requests("generate_until", [(c, {"max_gen_toks": 12, "until": []}) for c in "abcde"])
    packed = engine.generate_until(asked)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(-parameter)
    changed = engine.generate_until(asked)
    monkeypatch.setattr(packed_linear, "MEMORY_SHARE", 0.0)
    assert engine.generate_until(asked) == changed != packed
