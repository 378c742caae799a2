"""Evaluation leaves the model, the tokenizer and every random state as it found them."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch

from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from tests.helpers.engine_oracle import hflm, requests
from tests.helpers.tiny import byte_tokenizer, tiny_model

PAIRS = requests("loglikelihood", [("a context", " yes"), ("a context", " no"), ("b", " c")])
PROMPTS = requests("generate_until", [("a context", {"max_gen_toks": 4, "until": ["x"]})])
TEXTS = requests("loglikelihood_rolling", [("some text",)])


def use(engine):
    engine.loglikelihood(PAIRS)
    engine.generate_until(PROMPTS)
    engine.loglikelihood_rolling(TEXTS)


def test_modes_gradients_hooks_and_config_stay():
    model = tiny_model()
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    config = copy.deepcopy(model.config.to_dict())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    use(SharedPrefixLM(model, byte_tokenizer()))
    assert [module.training for module in model.modules()] == modes
    assert model.config.to_dict() == config
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()


def test_dropout_is_off_and_the_attention_comes_back():
    model = tiny_model()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    model.config._attn_implementation = "flex_attention"
    engine = SharedPrefixLM(model, byte_tokenizer())
    first, second = engine.loglikelihood(PAIRS), engine.loglikelihood(PAIRS)
    assert first == second
    assert engine.reason is None
    assert model.config._attn_implementation == "flex_attention"


def test_random_states_stay():
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    use(SharedPrefixLM(tiny_model(), byte_tokenizer()))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_training_goes_on_with_the_same_bits():
    """Also through buffers that a model might cache in inference mode."""

    def train(evaluate):
        model = tiny_model(seed=2)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
        model.train()
        ids = torch.arange(24)[None] % 50
        for _ in range(3):
            if evaluate:
                use(SharedPrefixLM(model, byte_tokenizer()))
            model(ids, labels=ids).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(train(False), train(True))


def test_an_error_leaves_no_trace_either(monkeypatch):
    model = tiny_model()
    model.train()
    engine = SharedPrefixLM(model, byte_tokenizer())
    use(engine)
    monkeypatch.setattr(model.model, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.loglikelihood(PAIRS)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_bf16_weights_stay_bf16():
    model, tokenizer = tiny_model(dtype=torch.bfloat16), byte_tokenizer()
    engine = SharedPrefixLM(model, tokenizer)
    mine = engine.loglikelihood(PAIRS)
    theirs = hflm(model, tokenizer).loglikelihood(PAIRS, disable_tqdm=True)
    assert [score for score, _ in mine] == pytest.approx([score for score, _ in theirs], abs=0.2)
    assert engine.reason is None
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    use(engine)


def test_progress_reaches_the_total():
    seen: dict[str, list[tuple[int, int]]] = {}

    def progress(what, done, total):
        seen.setdefault(what, []).append((done, total))

    use(SharedPrefixLM(tiny_model(), byte_tokenizer(), progress=progress))
    assert {what: calls[-1] for what, calls in seen.items()} == {
        "log-likelihoods": (1, 1),
        "generations": (1, 1),
    }
    assert (3, 3) in seen["log-likelihoods"]


def test_a_request_cache_is_filled():
    class Hook:
        def __init__(self):
            self.kept = {}

        def add_partial(self, kind, arguments, answer):
            self.kept[kind, str(arguments)] = answer

    engine, hook = SharedPrefixLM(tiny_model(), byte_tokenizer()), Hook()
    engine.set_cache_hook(hook)
    scores = engine.loglikelihood(PAIRS)
    texts = engine.generate_until(PROMPTS)
    totals = engine.loglikelihood_rolling(TEXTS)
    assert list(hook.kept.values()) == [*scores, *texts, *totals]


def test_a_chat_template_is_applied():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    engine = SharedPrefixLM(tiny_model(), tokenizer)
    history = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    oracle = hflm(tiny_model(), tokenizer)
    assert engine.apply_chat_template(history) == oracle.apply_chat_template(history)
    assert engine.apply_chat_template(history) == "[user]u[assistant]"
    assert engine.chat_template(True) == tokenizer.chat_template
    assert isinstance(engine.tokenizer_name, str)
