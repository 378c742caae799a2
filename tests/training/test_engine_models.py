"""The engine on everything a model may be: checkpointed, compiled, wrapped, shared, saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cl_bench.training.loss import answer_logits, answer_loss
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.update_plan import Frozen, Full, Rows, UpdatePlan
from tests.helpers.selective_oracle import count_answers, plain_loss, random_batch, random_plan
from tests.helpers.tiny import tiny_model

VOCAB = 61
BATCH = random_batch(VOCAB, [(7, 2), (3, 4), (1, 1)], "left", seed=0)


pytestmark = pytest.mark.usefixtures("one_thread")


def gradients(model, plan, batch=BATCH):
    with SelectiveUpdate(model, plan) as engine:
        answer_loss(model, batch, count_answers([batch]))[0].backward()
        return {name: grad.clone() for name, grad in engine.grads.items()}


def assert_same(mine, theirs, atol=1e-12):
    assert mine.keys() == theirs.keys()
    for name, grad in mine.items():
        torch.testing.assert_close(grad, theirs[name], rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("frozen_embedding", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant, frozen_embedding):
    model = tiny_model(VOCAB, "qwen2", dtype=torch.float64).train()
    plan = random_plan(model, seed=4)
    embedding = Frozen() if frozen_embedding else Full()
    plan = UpdatePlan({**plan.selections, "model.embed_tokens.weight": embedding})
    expected = gradients(model, plan)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert_same(gradients(model, plan), expected)


def test_torch_compile_changes_nothing():
    model = tiny_model(VOCAB, "qwen2", tie=True, dtype=torch.float64, layers=1).train()
    plan = random_plan(model, seed=5)
    expected = gradients(model, plan)
    torch._dynamo.reset()
    model.compile(backend="aot_eager")
    assert_same(gradients(model, plan), expected)


class Twice(nn.Module):
    """One linear layer applied twice, and one embedding looked up twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6, padding_idx=0)
        self.layer = nn.Linear(6, 6)

    def forward(self, ids):
        x = self.layer(self.embed(ids)).tanh()
        return self.layer(x + self.embed(ids.flip(1))).square().sum()


@pytest.mark.parametrize("seed", range(6))
def test_modules_called_twice_add_up(seed):
    torch.manual_seed(seed)
    model = Twice().double()
    dense = copy.deepcopy(model)
    ids = torch.randint(0, 11, (3, 5))
    dense(ids).backward()
    plan = random_plan(model, seed)
    with SelectiveUpdate(model, plan) as engine:
        model(ids).backward()
        for name, parameter in dense.named_parameters():
            if name in engine.grads:
                expected = engine.compact(name, parameter.grad)
                torch.testing.assert_close(engine.grads[name], expected, rtol=1e-12, atol=1e-12)


def test_the_model_is_ordinary_again_after_close(tmp_path):
    from transformers import AutoModelForCausalLM

    model = tiny_model(VOCAB, tie=True)
    forwards = {name: "forward" in vars(m) for name, m in model.named_modules()}
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    names = list(model.state_dict())
    plan = random_plan(model, seed=6)
    with SelectiveUpdate(model, plan) as engine:
        assert list(model.state_dict()) == names
        answer_loss(model, BATCH, 1.0)[0].backward()
        engine.step(1e-2)
    assert forwards == {name: "forward" in vars(m) for name, m in model.named_modules()}
    assert flags == {name: p.requires_grad for name, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())
    plain_loss(model, BATCH, 1.0).backward()
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, dict(model.named_parameters())[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_model_and_state_can_be_saved_as_safetensors_in_the_middle(tmp_path, dtype):
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    model = tiny_model(VOCAB, tie=True, dtype=dtype)
    with SelectiveUpdate(model, UpdatePlan()) as engine:
        answer_loss(model, BATCH, 1.0)[0].backward()
        engine.step(1e-2)
        model.save_pretrained(tmp_path)
        save_file(engine.state_dict(), tmp_path / "state.safetensors")
        again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
        for name, parameter in again.named_parameters():
            assert torch.equal(parameter, dict(model.named_parameters())[name])
        for name, value in load_file(tmp_path / "state.safetensors").items():
            assert torch.equal(value, engine.state_dict()[name])


def test_saving_and_loading_in_the_middle_continues_bit_for_bit():
    def batch(step):
        return random_batch(VOCAB, [(4, 2), (2, 3)], "left", seed=step)

    def advance(model, engine, steps):
        for step in steps:
            answer_loss(model, batch(step), 5)[0].backward()
            engine.clip(1.0)
            engine.step(1e-3)
            engine.zero_grad()

    straight = tiny_model(VOCAB, "qwen2", dtype=torch.bfloat16)
    plan = random_plan(straight, seed=7)
    with SelectiveUpdate(straight, plan) as engine:
        advance(straight, engine, range(8))

    first = tiny_model(VOCAB, "qwen2", dtype=torch.bfloat16)
    with SelectiveUpdate(first, plan) as engine:
        advance(first, engine, range(4))
        saved = {k: v.clone() for k, v in engine.state_dict().items()}
        weights = {k: v.clone() for k, v in first.state_dict().items()}
        stored = {k: v.clone() for k, v in plan.tensors().items()}
    second = tiny_model(VOCAB, "qwen2", dtype=torch.bfloat16, seed=99)
    second.load_state_dict(weights)
    with SelectiveUpdate(second, UpdatePlan.from_tensors(stored)) as engine:
        engine.load_state_dict(saved)
        advance(second, engine, range(4, 8))
    for name, parameter in second.named_parameters():
        assert torch.equal(parameter, dict(straight.named_parameters())[name]), name


def test_a_state_of_another_plan_is_refused():
    model = tiny_model(VOCAB)
    with SelectiveUpdate(model, UpdatePlan()) as engine:
        state = engine.state_dict()
    plan = UpdatePlan({"model.norm.weight": Frozen()})
    with SelectiveUpdate(model, plan) as engine, pytest.raises(ValueError, match="another"):
        engine.load_state_dict(state)


def test_adapters_of_peft_train_and_the_base_stays():
    from peft import LoraConfig, get_peft_model

    base = tiny_model(VOCAB, "qwen2", dtype=torch.float64)
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.0))
    model = model.double().train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    dense = copy.deepcopy(model)
    plain_loss(dense, BATCH, 7.0).backward()
    frozen = {n: Frozen() for n, p in model.named_parameters() if not p.requires_grad}
    with SelectiveUpdate(model, UpdatePlan(frozen)) as engine:
        loss, outputs = answer_loss(model, BATCH, 7.0)
        loss.backward()
        assert outputs.logits.shape == (7, VOCAB)
        for name, parameter in dense.named_parameters():
            assert (name in engine.grads) == ("lora_" in name)
            if name in engine.grads:
                expected = parameter.grad
                torch.testing.assert_close(engine.grads[name], expected, rtol=0, atol=1e-12)


def test_frozen_weights_stay_parameters_and_take_no_gradient():
    model = tiny_model(VOCAB, tie=True)
    names = dict(model.named_parameters()).keys()
    plan = UpdatePlan({"model.layers.0.mlp.up_proj.weight": Rows(torch.tensor([0, 2]))}, Frozen())
    with SelectiveUpdate(model, plan) as engine:
        answer_loss(model, BATCH, 1.0)[0].backward()
        assert dict(model.named_parameters()).keys() == names
        assert all(isinstance(p, nn.Parameter) and p.grad is None for p in model.parameters())
        assert {g.dtype for g in engine.grads.values()} == {torch.float32}
        state = engine.state_dict()
        assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_half_precision_matches_float32_within_its_rounding():
    """On CPUs without bf16 units products are widened; gradients stay those of the model."""
    wide = tiny_model(VOCAB, "qwen2", seed=2)
    half = tiny_model(VOCAB, "qwen2", seed=2, dtype=torch.bfloat16)
    wide.load_state_dict({k: v.float() for k, v in half.state_dict().items()})
    plan = random_plan(half, seed=8)
    before = half.config._attn_implementation
    mine, theirs = gradients(half, plan), gradients(wide, plan)
    assert half.config._attn_implementation == before
    scale = max(float(g.abs().max()) for g in theirs.values())
    assert_same(mine, theirs, atol=0.03 * scale)


@pytest.mark.parametrize("side", ["left", "right"])
def test_answer_loss_is_the_sum_over_answers(side):
    model = tiny_model(VOCAB, dtype=torch.float64)
    batch = random_batch(VOCAB, [(7, 2), (3, 4), (1, 1)], side, seed=3)
    loss, outputs = answer_loss(model, batch, 4.0)
    torch.testing.assert_close(loss, plain_loss(model, batch, 4.0))
    assert torch.equal(outputs.labels, batch["labels"][outputs.rows, outputs.columns + 1])
    assert outputs.logits.shape == (7, VOCAB) and outputs.logits.requires_grad


def test_cross_entropy_in_blocks_has_the_gradient_of_the_plain_one(monkeypatch):
    from cl_bench.training.cross_entropy import summed_cross_entropy

    monkeypatch.setattr("cl_bench.training.cross_entropy._BLOCK", 40)
    generator = torch.Generator().manual_seed(0)
    logits = (20 * torch.randn(9, 17, generator=generator)).double().requires_grad_()
    labels = torch.randint(17, (9,), generator=generator)
    plain = nn.functional.cross_entropy(logits, labels, reduction="sum")
    expected = torch.autograd.grad(plain * 0.3, logits)[0]
    mine = summed_cross_entropy(logits, labels)
    torch.testing.assert_close(mine, plain)
    torch.testing.assert_close(torch.autograd.grad(mine * 0.3, logits)[0], expected)


def test_a_batch_without_answers_has_zero_loss():
    model = tiny_model(VOCAB)
    batch = dict(BATCH, labels=torch.full_like(BATCH["labels"], -100))
    with SelectiveUpdate(model, UpdatePlan()) as engine:
        loss, outputs = answer_loss(model, batch, 1.0)
        loss.backward()
        assert loss.item() == 0.0 and outputs.logits.shape == (0, VOCAB)
        assert all((grad == 0).all() for grad in engine.grads.values())


def test_logits_are_computed_at_answer_positions_only():
    model = tiny_model(VOCAB)
    seen = []
    handle = model.lm_head.register_forward_hook(lambda m, a, out: seen.append(out.shape))
    answer_logits(model, BATCH)
    handle.remove()
    assert seen == [(1, 7, VOCAB)]
