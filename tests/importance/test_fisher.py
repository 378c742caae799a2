"""Fisher scores against a per-sample loop in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cl_bench.errors import UserError
from cl_bench.importance import products
from cl_bench.importance.fisher import fisher_scores, scored_parameters, trainable_parameters
from cl_bench.training.cpu import matmul
from tests.helpers.selective_oracle import plain_loss, random_batch
from tests.helpers.tiny import tiny_model

VOCAB = 61
SIZES = [(7, 2), (3, 4), (1, 1), (5, 3)]


pytestmark = pytest.mark.usefixtures("one_thread")


def loop(model, batches, granularity, names):
    """One unpadded sample at a time, float64, dense gradients of the summed log-likelihood."""
    model = copy.deepcopy(model).double().eval()
    parameters = dict(model.named_parameters())
    scores = {}
    for batch in batches:
        for i in range(len(batch["input_ids"])):
            real = batch["attention_mask"][i].bool()
            sample = {key: value[i : i + 1, real] for key, value in batch.items()}
            loss = plain_loss(model, sample, 1.0)
            wanted = [parameters[name] for name in names]
            for name, grad in zip(names, torch.autograd.grad(loss, wanted), strict=True):
                square = grad.square()
                if square.dim() == 2 and granularity != "elements":
                    square = square.sum(1 if granularity == "rows" else 0)
                scores[name] = scores.get(name, 0) + square
    return scores


def assert_matches(model, batches, granularity, names=None, rtol=1e-9):
    mine = fisher_scores(model, batches, granularity, modules=names)
    expected = loop(model, batches, granularity, list(mine))
    if names is not None:
        assert set(mine) == set(names)
    for name, score in mine.items():
        scale = float(expected[name].max())
        error = float((score.double() - expected[name]).abs().max())
        assert error <= rtol * scale + 1e-20, (name, error, scale)


@settings(max_examples=18, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tie=st.booleans(),
    kind=st.sampled_from(["llama", "qwen2"]),
    side=st.sampled_from(["left", "right"]),
    granularity=st.sampled_from(["rows", "columns", "elements"]),
    everything=st.booleans(),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4),
)
def test_equals_the_loop(seed, tie, kind, side, granularity, everything, sizes):
    model = tiny_model(VOCAB, kind, tie, seed=1, dtype=torch.float64)
    batches = [random_batch(VOCAB, sizes, side, seed), random_batch(VOCAB, SIZES, side, seed + 1)]
    names = trainable_parameters(model) if everything else None
    assert_matches(model, batches, granularity, names)


@pytest.mark.parametrize("granularity", ["rows", "columns", "elements"])
def test_float32_is_within_1e_5_of_the_float64_loop(granularity):
    model = tiny_model(VOCAB, "qwen2", tie=True, seed=2)
    batches = [random_batch(VOCAB, [(40, 5), (9, 9), (23, 2)], "left", seed=5)]
    assert_matches(model, batches, granularity, trainable_parameters(model), rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(1, 3),
    length=st.integers(1, 40),
    inner=st.integers(1, 12),
    outer=st.integers(1, 12),
    block=st.integers(1, 17),
)
def test_both_routes_equal_the_squared_product(seed, samples, length, inner, outer, block):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, length, inner, generator=generator, dtype=torch.float64)
    g = torch.randn(samples, length, outer, generator=generator, dtype=torch.float64)
    square = torch.einsum("bto,bti->boi", g, x).square().sum(0)
    previous, products._BLOCK = products._BLOCK, block
    try:
        by_gram = products.Gram.of(x).diagonal_form(g)
    finally:
        products._BLOCK = previous
    torch.testing.assert_close(by_gram, square.sum(1))
    torch.testing.assert_close(products.direct_rows(x, g), square.sum(1))
    elements = torch.zeros(outer, inner, dtype=torch.float64)
    products.add_elements(elements, x, g)
    torch.testing.assert_close(elements, square)


def test_both_routes_are_taken_and_the_choice_follows_length():
    assert products.gram_is_cheaper(64, 576, 1536)
    assert not products.gram_is_cheaper(2048, 576, 1536)
    # A Gram matrix that several layers share is paid for once.
    lengths = range(32, 2048, 32)
    alone, shared = (
        [length for length in lengths if products.gram_is_cheaper(length, 576, 576, *uses)]
        for uses in ((), (3,))
    )
    assert max(alone) < max(shared) < 2016


class Shared(nn.Module):
    """A weight used by two layers and called twice, a bias, a norm called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, VOCAB, bias=True)

    def get_output_embeddings(self):
        return self.head

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, attention_mask, position_ids=None, use_cache=None):
        x = self.norm(self.embed(input_ids)).cumsum(1)
        x = self.norm(self.first(x).tanh() + self.second(x).sin())
        x = self.first(x).cumsum(1)

        class Output:
            logits = self.head(x)

        return Output


@pytest.mark.parametrize("granularity", ["rows", "columns", "elements"])
def test_weights_used_several_times_have_their_cross_terms(granularity):
    torch.manual_seed(0)
    model = Shared().double()
    batches = [random_batch(VOCAB, SIZES, "right", seed=3)]
    assert_matches(model, batches, granularity, trainable_parameters(model))


class Unknown(Shared):
    """Owns a matrix that no known layer computes with, and flattens samples for a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(8, 8))
        self.flat = nn.Linear(8, 8)

    def forward(self, input_ids, attention_mask, position_ids=None, use_cache=None):
        x = self.norm(self.embed(input_ids)).cumsum(1) @ self.matrix
        x = self.flat(x.flatten(0, 1)).view(x.shape)

        class Output:
            logits = self.head(x)

        return Output


@pytest.mark.parametrize("names", [["matrix", "flat.weight", "norm.bias"], ["flat.weight"]])
def test_unknown_layers_fall_back_to_single_samples(names):
    torch.manual_seed(0)
    model = Unknown().double()
    batches = [random_batch(VOCAB, SIZES, "right", seed=seed) for seed in range(2)]
    for granularity in ("rows", "elements"):
        assert_matches(model, batches, granularity, names)


def test_embeddings_and_head_are_left_out_unless_asked_for():
    for tie in (False, True):
        model = tiny_model(VOCAB, tie=tie)
        names = set(scored_parameters(model))
        everything = {name for name, _ in model.named_parameters()}
        left_out = {"model.embed_tokens.weight"} | (set() if tie else {"lm_head.weight"})
        assert everything - names == left_out
        scores = fisher_scores(model, [random_batch(VOCAB, SIZES, "left", seed=0)])
        assert set(scores) == names
        assert scores["model.layers.0.mlp.up_proj.weight"].shape == (64,)


def test_modules_may_be_named_by_their_last_parts():
    model = tiny_model(VOCAB, "qwen2", tie=True)
    batches = [random_batch(VOCAB, SIZES, "left", seed=0)]
    scores = fisher_scores(
        model, batches, "columns", ["q_proj", "lm_head", "1.mlp.down_proj.weight"]
    )
    assert set(scores) == {
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.bias",
        "model.layers.1.mlp.down_proj.weight",
    }
    assert scores["model.layers.1.mlp.down_proj.weight"].shape == (64,)
    with pytest.raises(UserError, match="q_prj"):
        fisher_scores(model, batches, modules=["q_prj", "up_proj"])


def test_the_model_comes_back_as_it_was():
    model = tiny_model(VOCAB, dtype=torch.bfloat16).train()
    model.model.layers[0].eval()
    model.model.norm.weight.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    attributes = [set(vars(m)) for m in model.modules()]
    scores = fisher_scores(model, [random_batch(VOCAB, SIZES, "left", seed=0)])
    assert {s.dtype for s in scores.values()} == {torch.float32}
    assert modes == [m.training for m in model.modules()]
    assert flags == [p.requires_grad for p in model.parameters()]
    assert attributes == [set(vars(m)) for m in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_the_split_into_batches_does_not_matter():
    model = tiny_model(VOCAB, dtype=torch.float64)
    whole = random_batch(VOCAB, SIZES, "left", seed=0)
    parts = [{k: v[i : i + 1] for k, v in whole.items()} for i in range(len(SIZES))]
    together, apart = fisher_scores(model, [whole]), fisher_scores(model, parts)
    for name, score in together.items():
        torch.testing.assert_close(score, apart[name], rtol=1e-10, atol=0)


@pytest.mark.parametrize("granularity", ["rows", "columns", "elements"])
def test_a_layer_that_no_gradient_reaches_scores_zero(granularity):
    """With one visible token attention is constant: queries and keys have no gradient at all."""
    model = tiny_model(VOCAB, "qwen2", dtype=torch.float64)
    batches = [random_batch(VOCAB, [(1, 1)] * 3, "left", seed=0)]
    assert_matches(model, batches, granularity)


def test_no_batches_and_no_answers_score_zero():
    model = tiny_model(VOCAB)
    batch = random_batch(VOCAB, SIZES, "left", seed=0)
    empty = dict(batch, labels=torch.full_like(batch["labels"], -100))
    for batches in ([], [empty]):
        assert all((score == 0).all() for score in fisher_scores(model, batches).values())


@pytest.mark.parametrize("units", [True, False])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("granularity", ["rows", "columns", "elements"])
def test_half_precision_scores_are_close_to_float32(granularity, tie, units, monkeypatch):
    """On CPUs with and without bf16 units, embeddings and head included."""
    monkeypatch.setattr(matmul, "_cpu_widens", lambda: not units)
    half = tiny_model(VOCAB, "qwen2", tie=tie, seed=3, dtype=torch.bfloat16)
    wide = tiny_model(VOCAB, "qwen2", tie=tie, seed=3)
    wide.load_state_dict({k: v.float() for k, v in half.state_dict().items()})
    batches = [random_batch(VOCAB, SIZES, "left", seed=0)]
    names = trainable_parameters(wide)
    mine = fisher_scores(half, batches, granularity, modules=names)
    theirs = fisher_scores(wide, batches, granularity, modules=names)
    for name, score in mine.items():
        assert float((score - theirs[name]).norm() / theirs[name].norm()) < 0.1, name
        if score.dim() == 1 and "proj.weight" in name:  # else rows would tie at the threshold
            assert not torch.equal(score, score.bfloat16().float()), name
