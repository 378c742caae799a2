"""DAS against importance and shortened updates written out plainly."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from cl_bench.costs.shapes import shapes_of
from cl_bench.errors import UserError
from cl_bench.methods.compose import Composite
from cl_bench.methods.das import DAS, DASOptions
from cl_bench.methods.fggm import FGGM
from cl_bench.methods.sft import SFT
from cl_bench.seeds import derive_seed
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    all64,
    assert_close,
    encode,
    make_stage,
    reference_training,
    run_method,
    sample_loss,
    weights,
)
from tests.helpers.sequences import run_sequence

H, D, INNER = 4, 8, 64


def das(**options: Any) -> DAS:
    return DAS(DASOptions.model_validate(options))


class Plain:
    """One layer whose forward is written out, with factors on its units and dropout."""

    def __init__(self, model: Any, draws: torch.Generator | None = None) -> None:
        self.model, self.draws = model, draws
        sizes = {"heads": H, "inner": INNER, "outputs": 32}
        self.factors = {
            kind: torch.ones(n, dtype=torch.float64, requires_grad=True)
            for kind, n in sizes.items()
        }

    def dropped(self, x: Tensor) -> Tensor:
        if self.draws is None:
            return x
        return x * (torch.rand(x.shape, generator=self.draws) >= 0.1).double() / 0.9

    def logits(self, ids: list[int]) -> Tensor:
        layer, inner = self.model.model.layers[0], self.model.model
        x = inner.embed_tokens(torch.tensor(ids))
        normed = layer.input_layernorm(x)
        rotary = inner.rotary_emb(x[None], torch.arange(len(ids))[None])
        own = layer.self_attn
        q, k, v = (
            own_proj(normed).view(len(ids), -1, D).transpose(0, 1)
            for own_proj in (own.q_proj, own.k_proj, own.v_proj)
        )
        q, k = (each[0] for each in apply_rotary_pos_emb(q[None], k[None], *rotary))
        heads = []
        for h in range(H):
            score = q[h] @ k[h // 2].T / D**0.5
            score = score.masked_fill(torch.ones_like(score).triu(1) > 0, -torch.inf)
            heads.append(self.factors["heads"][h] * (score.softmax(-1) @ v[h // 2]))
        x = x + self.dropped(own.o_proj(torch.cat(heads, 1)))
        mlp, normed = layer.mlp, layer.post_attention_layernorm(x)
        middle = torch.nn.functional.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed)
        added = mlp.down_proj(middle * self.factors["inner"]) * self.factors["outputs"]
        x = x + self.dropped(added)
        return self.model.lm_head(inner.norm(x))  # type: ignore[no-any-return]


def importance_of(model: Any, items: list[Any], general: bool) -> dict[str, Tensor]:
    """Mean size of the derivative, normalised as the paper writes it."""
    total: dict[str, Tensor] = {}
    for number, item in enumerate(encode(items, TRAIN)):
        rows = slice(item.prompt_length - 1, len(item.input_ids) - 1)
        if general:
            passes = []
            for j in (1, 2):
                seed = derive_seed(3, 1, "das", number, j)
                passes.append(Plain(model, torch.Generator().manual_seed(seed)))
            passes[1].factors = passes[0].factors
            p, q = (one.logits(item.input_ids)[rows].softmax(-1) for one in passes)
            loss, factors = (p * (p / q).log()).sum(), passes[0].factors
        else:
            plain = Plain(model)
            labels = torch.tensor(item.input_ids)[item.prompt_length :]
            logp = plain.logits(item.input_ids)[rows].log_softmax(-1)
            loss, factors = -logp.gather(1, labels[:, None]).sum(), plain.factors
            assert float(loss - sample_loss(model, item)) == pytest.approx(0, abs=1e-10)
        for kind, found in zip(
            factors, torch.autograd.grad(loss, list(factors.values())), strict=True
        ):
            total[kind] = total.get(kind, torch.zeros_like(found)) + found.abs()
    return {k: ((v - v.mean()) / v.std()).tanh().abs() for k, v in total.items()}


def held_back(name: str, importance: dict[str, Tensor]) -> Tensor | None:
    heads, pairs = importance["heads"], importance["heads"].view(2, 2).amax(1)
    by_name = {
        "q_proj": heads.repeat_interleave(D)[:, None],
        "k_proj": pairs.repeat_interleave(D)[:, None],
        "v_proj": pairs.repeat_interleave(D)[:, None],
        "o_proj": heads.repeat_interleave(D)[None, :],
        "gate_proj": importance["inner"][:, None],
        "up_proj": importance["inner"][:, None],
        "down_proj": importance["outputs"][:, None],
    }
    return next((value for key, value in by_name.items() if key in name), None)


def test_das_shortens_the_updates_of_important_units() -> None:
    expected = all64(layers=1)
    importance = importance_of(expected, OLD, general=True)
    for index, items in enumerate((OLD, NEW), 1):
        before = weights(expected)

        def shorten(importance: dict[str, Tensor] = importance) -> None:
            for name, parameter in expected.named_parameters():
                if (held := held_back(name, importance)) is not None:
                    back = 0.8 * held * (parameter.data - before[name])  # noqa: B023
                    parameter.data -= back
                before[name] = parameter.data.clone()  # noqa: B023

        reference_training(expected, items, TRAIN, 2, index, after_step=shorten)
        new = importance_of(expected, items, general=False)
        importance = {k: torch.maximum(v, new[k]) for k, v in importance.items()}
    *_, last = run_sequence(lambda: das(strength=0.8), all64(layers=1), (OLD, NEW), TRAIN, 2)
    for kind, value in importance.items():
        assert float((last.state.tensors[f"das/{kind}"][0] - value).abs().max()) < 1e-9, kind
    assert_close(last.weights, weights(expected))


def test_without_strength_it_is_plain_fine_tuning() -> None:
    *_, plain = run_sequence(SFT, all64(layers=1), (OLD, NEW), TRAIN)
    *_, ours = run_sequence(lambda: das(strength=0), all64(layers=1), (OLD, NEW), TRAIN)
    assert_close(ours.weights, plain.weights, 0)


def test_what_a_mask_freezes_stays_and_no_hook_is_left() -> None:
    start = all64(layers=1)
    masked, held = copy.deepcopy(start), copy.deepcopy(start)
    run_method(FGGM(), *make_stage(masked, NEW, TRAIN), 1)
    run_method(Composite([FGGM(), das()]), *make_stage(held, NEW, TRAIN), 1)
    before = weights(start)
    for name, value in weights(held).items():
        frozen = weights(masked)[name] == before[name]
        assert torch.equal(value[frozen], before[name][frozen])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in held.modules())


def test_a_model_without_such_layers_is_refused() -> None:
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9))
    with pytest.raises(UserError, match="das: needs a model whose layers all have attention"):
        das().trains(shapes_of(other))
    assert das().trains(shapes_of(all64(layers=1))) is None
