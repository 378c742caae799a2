"""The engine against dense gradients times a mask and dense AdamW."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_bench.training.loss import answer_loss
from cl_bench.training.optimiser import FlatAdamW
from cl_bench.training.selected import build_slots
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.update_plan import Frozen, Full, Rows, UpdatePlan
from tests.helpers.selective_oracle import (
    DenseMaskedAdamW,
    count_answers,
    dense_mask,
    random_batch,
    random_plan,
    random_selection,
)
from tests.helpers.tiny import tiny_model

VOCAB = 61
LENGTHS = [(7, 2), (3, 4), (1, 1)]


pytestmark = pytest.mark.usefixtures("one_thread")


def run(model, plan, batches_of, steps, lr=1e-3, max_norm=1.0):
    with SelectiveUpdate(model, plan) as engine:
        norms = []
        for step in range(steps):
            batches = batches_of(step)
            tokens = count_answers(batches)
            for batch in batches:
                answer_loss(model, batch, tokens)[0].backward()
            norms.append(engine.clip(max_norm))
            engine.step(lr)
            engine.zero_grad()
    return norms


def two_batches(step):
    return [
        random_batch(VOCAB, LENGTHS, "left", seed=2 * step),
        random_batch(VOCAB, [(2, 2), (5, 1)], "right", seed=2 * step + 1),
    ]


@pytest.mark.parametrize(("kind", "tie"), [("llama", False), ("qwen2", True)])
def test_fifty_updates_equal_dense_masked_adamw_in_float64(kind, tie):
    model = tiny_model(VOCAB, kind, tie, seed=3, dtype=torch.float64).train()
    start, dense = copy.deepcopy(model), copy.deepcopy(model)
    plan = random_plan(model, seed=int(tie) + 10)
    oracle = DenseMaskedAdamW(dense, plan, lr=1e-3, max_norm=1.0)
    norms = run(model, plan, two_batches, steps=50)
    expected = [oracle.step(two_batches(step)) for step in range(50)]
    assert norms == pytest.approx(expected, abs=1e-9)
    reference = dict(dense.named_parameters())
    begin = dict(start.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, reference[name], rtol=0, atol=1e-9)
        frozen = ~oracle.masks[name]
        assert torch.equal(parameter[frozen], begin[name][frozen]), name


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tie=st.booleans(),
    kind=st.sampled_from(["llama", "qwen2"]),
    side=st.sampled_from(["left", "right"]),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4),
)
def test_any_plan_any_padding_gives_the_dense_gradients(seed, tie, kind, side, sizes):
    model = tiny_model(VOCAB, kind, tie, seed=1, dtype=torch.float64)
    dense = copy.deepcopy(model)
    plan = random_plan(model, seed)
    batch = random_batch(VOCAB, sizes, side, seed)
    oracle = DenseMaskedAdamW(dense, plan, lr=0.0, max_norm=None)
    oracle.step([batch])
    with SelectiveUpdate(model, plan) as engine:
        answer_loss(model, batch, count_answers([batch]))[0].backward()
        for name, parameter in dense.named_parameters():
            if name in engine.grads:
                expected = engine.compact(name, parameter.grad)
                torch.testing.assert_close(engine.grads[name], expected, rtol=0, atol=1e-12)
            else:
                assert not dense_mask(plan.of(name), parameter).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_the_optimiser_moves_entries_bit_for_bit_as_dense_adamw(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(columns, rows)
    dense = torch.nn.Linear(columns, rows)
    dense.load_state_dict(layer.state_dict())
    selections = {n: random_selection(p, generator) for n, p in layer.named_parameters()}
    plan = UpdatePlan(selections)
    masks = {n: dense_mask(selections[n], p) for n, p in dense.named_parameters()}
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.0}
    adamw = torch.optim.AdamW(dense.parameters(), foreach=False, fused=False, **options)
    with SelectiveUpdate(layer, plan) as engine:
        for _ in range(50):
            for name, parameter in dense.named_parameters():
                gradient = torch.randn(parameter.shape, generator=generator)
                parameter.grad = gradient * masks[name]
                if name in engine.grads:
                    engine.grads[name].copy_(engine.compact(name, gradient))
            adamw.step()
            engine.step(1e-2)
    for mine, theirs in zip(layer.parameters(), dense.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_blocks_and_weight_decay_of_the_optimiser_change_no_bit(monkeypatch):
    monkeypatch.setattr("cl_bench.training.optimiser._BLOCK", 1000)
    flat = FlatAdamW.empty(4321, torch.float32, torch.device("cpu"))
    flat.masters.normal_(generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(flat.masters.clone())
    adamw = torch.optim.AdamW([weight], lr=1e-3, weight_decay=0.1, foreach=False)
    for step in range(20):
        weight.grad = torch.randn(4321, generator=torch.Generator().manual_seed(step))
        flat.grads.copy_(weight.grad)
        adamw.step()
        flat.step(1e-3, (0.9, 0.999), 1e-8, 0.1)
    assert torch.equal(flat.masters, weight.data)


def test_bfloat16_weights_move_through_float32_masters():
    """At lr 1e-5 a bf16 weight near 0.02 cannot take a single step, but its master adds them up."""
    model = tiny_model(VOCAB, dtype=torch.bfloat16)
    begin = copy.deepcopy(model)
    with SelectiveUpdate(model, UpdatePlan()) as engine:
        name = "model.layers.0.mlp.up_proj.weight"
        for _ in range(40):
            for grad in engine.grads.values():
                grad.fill_(1.0)
            engine.step(1e-5)
        moved = engine.masters[name] - dict(begin.named_parameters())[name].float()
        assert engine.masters[name].dtype == torch.float32
        torch.testing.assert_close(moved, torch.full_like(moved, -4e-4), rtol=0.02, atol=1e-6)
        written = dict(model.named_parameters())[name]
        assert torch.equal(written, engine.masters[name].bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_frozen_entries_are_bit_identical_afterwards(dtype):
    model = tiny_model(VOCAB, "qwen2", tie=True, dtype=dtype)
    begin = {name: p.clone() for name, p in model.named_parameters()}
    plan = random_plan(model, seed=11)
    run(model, plan, two_batches, steps=5, lr=1e-2)
    moved = 0
    for name, parameter in model.named_parameters():
        mask = dense_mask(plan.of(name), parameter)
        assert torch.equal(parameter[~mask], begin[name][~mask]), name
        moved += int((parameter[mask] != begin[name][mask]).sum())
    assert moved > 0


def test_full_float32_weights_are_their_own_masters_until_close():
    model = tiny_model(VOCAB)
    engine = SelectiveUpdate(model, UpdatePlan())
    weight = model.model.layers[0].mlp.up_proj.weight
    name = "model.layers.0.mlp.up_proj.weight"
    assert weight.data_ptr() == engine.masters[name].data_ptr()
    engine.masters[name].fill_(0.5)
    engine.close()
    assert weight.data_ptr() != engine.masters[name].data_ptr()
    assert (weight == 0.5).all()


def test_masters_written_by_a_method_reach_the_model():
    model = tiny_model(VOCAB, dtype=torch.bfloat16)
    name = "model.layers.1.self_attn.q_proj.weight"
    plan = UpdatePlan({name: Rows(torch.tensor([1, 5]))}, default=Frozen())
    before = dict(model.named_parameters())[name].clone()
    with SelectiveUpdate(model, plan) as engine:
        assert list(engine.masters) == [name]
        engine.masters[name].zero_()
        engine.write_back()
    after = dict(model.named_parameters())[name]
    assert (after[[1, 5]] == 0).all()
    others = [i for i in range(len(before)) if i not in (1, 5)]
    assert torch.equal(after[others], before[others])


def test_every_fault_of_a_plan_is_named():
    from cl_bench.errors import UserError
    from cl_bench.training.update_plan import Columns, Elements

    plan = UpdatePlan(
        {
            "model.layers.0.mlp.up_proj.weigth": Full(),
            "model.layers.0.mlp.up_proj.weight": Rows(torch.tensor([3, 3])),
            "model.layers.0.mlp.down_proj.weight": Columns(torch.tensor([64])),
            "model.norm.weight": Rows(torch.tensor([0])),
            "model.layers.1.mlp.up_proj.weight": Elements(torch.ones(2, 2, dtype=torch.bool)),
        }
    )
    with pytest.raises(UserError) as caught:
        build_slots(tiny_model(VOCAB), plan)
    text = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 5
    for part in ("did you mean", "sorted and distinct", "0..63", "elements", "bool"):
        assert part in text
