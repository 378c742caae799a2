"""OSFT against factors that a plain loop trains, and against PEFT's OSF."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import OSFConfig, get_peft_model
from torch import Tensor, nn

from cl_bench.experiment.resolve import resolve_file
from cl_bench.methods.osft import OSFT, OSFTOptions, kept_directions
from cl_bench.training.selective_update import SelectiveUpdate
from tests.helpers.configs import write
from tests.helpers.reference import (
    assert_close,
    encode,
    examples,
    make_stage,
    model64,
    run_method,
    sample_loss,
    weights,
)
from tests.methods.contract.helpers import NEW, OLD, TRAIN

Gradients = dict[str, Tensor]


def targets(model: nn.Module) -> list[str]:
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    return [name for name in names if name != "lm_head"]


class Plain:
    """W = U_h S_h V_h + U S V by dense matrices, one sample at a time, with torch's AdamW."""

    def __init__(self, model: nn.Module, ratio: float, others: bool) -> None:
        self.model, self.fixed, self.free = model, {}, {}
        for name in targets(model):
            weight = model.get_submodule(name).weight.detach()
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            k = kept_directions(tuple(weight.shape), ratio)
            self.fixed[name] = (u[:, :k], torch.diag(s[:k]), v[:k])
            self.free[name] = [x.clone().requires_grad_() for x in (u[:, k:], s[k:], v[k:])]
        own = {f"{name}.weight" for name in self.free}
        self.rest = [p for n, p in model.named_parameters() if others and n not in own]

    def matrices(self) -> Gradients:
        found = {}
        for name, (u, s, v) in self.free.items():
            a, b, c = self.fixed[name]
            found[f"{name}.weight"] = a @ b @ c + u @ torch.diag(s) @ v
        return found

    @torch.no_grad()
    def project(self, of: Any) -> None:
        for name, (u, _, v) in self.free.items():
            a, _, c = self.fixed[name]
            of(u).sub_(a @ (a.t() @ of(u)))
            of(v).sub_((of(v) @ c.t()) @ c)

    def train(self, items: list[Any], epochs: int) -> Gradients:
        """All examples in every update."""
        encoded = encode(items, TRAIN)
        parameters = [x for each in self.free.values() for x in each] + self.rest
        optimiser = torch.optim.AdamW(parameters, TRAIN.lr, betas=TRAIN.betas, weight_decay=0.0)
        tokens = sum(len(item.input_ids) - max(item.prompt_length, 1) for item in encoded)
        for epoch in range(epochs):
            optimiser.zero_grad()
            called = Called(self.model, self.matrices())
            (sum(sample_loss(called, item) for item in encoded) / tokens).backward()
            self.project(lambda x: x.grad)
            torch.nn.utils.clip_grad_norm_(parameters, TRAIN.max_grad_norm)
            optimiser.param_groups[0]["lr"] = TRAIN.lr * (1 - epoch / epochs)
            optimiser.step()
            self.project(lambda x: x.data)
        return weights(self.model) | {n: w.detach() for n, w in self.matrices().items()}


class Called(nn.Module):
    """A model with other tensors in the place of some of its parameters."""

    def __init__(self, model: nn.Module, tensors: Gradients) -> None:
        super().__init__()
        self.__dict__.update(inner=model, tensors=tensors)

    def forward(self, **inputs: Any) -> Any:
        return torch.func.functional_call(self.inner, self.tensors, kwargs=inputs)


@pytest.mark.parametrize("others", ["frozen", "full"])
@pytest.mark.parametrize("ratio", [0.25, 0.7, 1.0])
def test_two_stages_are_those_of_plain_factors(ratio: float, others: Any) -> None:
    model = model64(layers=1, kind="qwen2")
    expected = copy.deepcopy(model)
    for index, items in enumerate((OLD, NEW), 1):
        found = Plain(expected, ratio, others == "full").train(items, 2)
        expected.load_state_dict(found, strict=False)
        stage, batcher = make_stage(model, items, TRAIN, index)
        run_method(OSFT(OSFTOptions(unfreeze_rank_ratio=ratio, others=others)), stage, batcher, 2)
        assert_close(weights(model), weights(expected))


def test_what_is_kept_does_not_move_and_the_model_is_an_ordinary_one() -> None:
    model = model64(layers=1)
    before = copy.deepcopy(model)
    stage, batcher = make_stage(model, examples("new", 9), TRAIN)
    run_method(OSFT(), stage, batcher, 3)
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    moved = set()
    for name, value in weights(before).items():
        change = weights(model)[name] - value
        if not change.any():
            continue
        moved.add(name.removesuffix(".weight"))
        u, _, v = torch.linalg.svd(value, full_matrices=False)
        k = min(value.shape) * 3 // 4
        assert float((u[:, :k].t() @ change).abs().max()) < 1e-14
        assert float((change @ v[:k].t()).abs().max()) < 1e-14
        assert float(change.abs().max()) > 1e-4
        assert torch.linalg.matrix_rank(change, atol=1e-10) <= 2 * (min(value.shape) - k)
    assert sorted(moved) == sorted(targets(before))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stage_begins_with_the_same_bits(dtype: torch.dtype) -> None:
    model = model64(layers=1).to(dtype)
    before = weights(model)
    ids = torch.tensor([[3, 4, 5, 6]])
    logits = model(input_ids=ids).logits
    own = OSFT()
    stage, _ = make_stage(model, NEW, TRAIN)
    own.prepare(stage)
    assert torch.equal(model(input_ids=ids).logits, logits)
    own.finish(stage)
    assert_close(weights(model), before, 0.0)


def test_the_gradients_are_those_of_peft() -> None:
    model = model64(layers=1).float()
    names = targets(model)
    config = OSFConfig(effective_rank=0.75, target_modules=names)
    peft = get_peft_model(copy.deepcopy(model), config)
    items = encode(NEW, TRAIN)
    sum(sample_loss(peft, item) for item in items).backward()
    found = {n: p.grad for n, p in peft.named_parameters() if p.grad is not None}
    own = OSFT()
    stage, _ = make_stage(model, NEW, TRAIN)
    own.prepare(stage)
    with SelectiveUpdate(model, own.plan(stage)) as engine:
        sum(sample_loss(model, item) for item in items).backward()
        own._project(engine.grads)
        assert len(found) == len(engine.grads) == 3 * len(names)
        for name, gradient in engine.grads.items():
            layer, _, part = name.rpartition(".")
            theirs = found[f"base_model.model.{layer}.osf_svd_params.default.{part}_low"]
            size = float(theirs.abs().max())
            assert float((gradient - theirs).abs().max()) < 1e-4 * size, name


def test_methods_that_keep_weights_do_not_go_with_it(tmp_path: Path) -> None:
    for other, refused in (("ewc", True), ("wise", True), ("ema", True), ("replay", False)):
        both = [{"compose": ["osft", other]}]
        (run,) = resolve_file(write(tmp_path, methods=both)).runs
        assert len(list(OSFT().refuses(run.stages[0]))) == refused, other
