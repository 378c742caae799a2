"""Output units whatever the layout: engine and scores against dense, loop-written oracles."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cl_bench.importance.fisher import fisher_scores, scored_parameters
from cl_bench.methods.lora import LoRAOptions
from cl_bench.methods.targets import adapted
from cl_bench.models.layouts import Layout, layouts, patterns
from cl_bench.models.load import load_model
from cl_bench.training.loss import answer_loss
from cl_bench.training.selective_update import SelectiveUpdate
from cl_bench.training.update_plan import Columns, Elements, Frozen, Full, Rows, UpdatePlan
from tests.helpers.architectures import CONFIGS, VOCAB, tiny
from tests.helpers.selective_oracle import DenseMaskedAdamW, plain_loss, random_batch
from tests.helpers.tiny import byte_tokenizer

BATCH = random_batch(VOCAB, [(9, 2), (4, 3), (2, 1)], "right", seed=0)
ONE_BY_ONE = [{k: v[i : i + 1, :n] for k, v in BATCH.items()} for i, n in enumerate((11, 7, 3))]
REACHED = ["gpt2", "mixtral", "gpt_oss", "mamba", "bloom", "gpt_neox", "phi3"]


pytestmark = pytest.mark.usefixtures("one_thread")


def found(name: str) -> dict[str, tuple[Layout, tuple[int, ...]]]:
    model = tiny(name)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    return {n.split(".1.")[-1]: (one, shapes[n]) for n, one in layouts(model).items()}


def test_output_units_of_each_kind_of_layer() -> None:
    gpt2, oss, mamba = found("gpt2"), found("gpt_oss"), found("mamba")
    mixtral = found("mixtral")
    assert gpt2["attn.c_attn.weight"] == (Layout((1,), (0,)), (16, 48))
    assert gpt2["attn.c_attn.bias"] == (Layout((0,)), (48,))
    experts = Layout((1,), (2,), 1, 2 / 3, False, False)
    assert mixtral["mlp.experts.gate_up_proj"] == (experts, (3, 48, 16))
    assert mixtral["mlp.gate.weight"] == (
        Layout((0,), (1,), selective=False, linear=False),
        (3, 16),
    )
    assert mixtral["self_attn.q_proj.weight"] == (Layout((0,), (1,)), (16, 16))
    turned = Layout((2,), (1,), 1, 2 / 3, False, False)
    assert oss["mlp.experts.gate_up_proj"] == (turned, (3, 16, 48))
    assert oss["mlp.experts.down_proj_bias"] == (Layout((1,), (), 1, 2 / 3, False, False), (3, 16))
    assert mamba["mixer.conv1d.weight"] == (
        Layout((0,), (1, 2), selective=False, linear=False),
        (32, 1, 4),
    )


class Fused(torch.nn.Module):
    """Experts without transformers' marks, as Llama 4 has them or the other way round."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        up, down = (torch.rand(2, 6, 8), torch.rand(2, 4, 6))
        swap = (lambda t: t) if turned else (lambda t: t.transpose(1, 2).contiguous())
        self.gate_up_proj = torch.nn.Parameter(swap(up))
        self.down_proj = torch.nn.Parameter(swap(down))


@pytest.mark.parametrize("turned", [False, True])
def test_experts_without_marks_are_told_by_their_shapes(turned: bool) -> None:
    layout = layouts(Fused(turned))["gate_up_proj"]
    assert layout.units == ((2,) if turned else (1,)) and layout.stack == 1


def test_other_parameters_of_three_dimensions_count_entry_by_entry() -> None:
    module = torch.nn.Module()
    module.odd = torch.nn.Parameter(torch.rand(2, 3, 4))
    layout = layouts(module)["odd"]
    assert layout.inputs == () and layout.score_shape((2, 3, 4), "rows") == (2, 3, 4)


def random_plan(model: Any, seed: int) -> tuple[UpdatePlan, dict[str, Tensor]]:
    """Random units, inputs and entries; the masks are written by hand here."""
    generator = torch.Generator().manual_seed(seed)
    masks: dict[str, Tensor] = {}
    plan: dict[str, Any] = {}
    for number, (name, p) in enumerate(model.named_parameters()):
        kind = ("rows", "columns", "elements", "full", "frozen")[(number + seed) % 5]
        mask = torch.zeros(p.shape, dtype=torch.bool)
        if kind in ("rows", "columns") and p.dim() > 1:
            matrices = mask.view(-1, *p.shape[-2:])
            side = p.shape[-2 if kind == "rows" else -1]
            chosen = (torch.rand(len(matrices), side, generator=generator) < 0.4).nonzero().tolist()
            for matrix, i in chosen:
                (matrices[matrix, i] if kind == "rows" else matrices[matrix, :, i])[:] = True
            index = torch.tensor([matrix * side + i for matrix, i in chosen], dtype=torch.long)
            plan[name] = Rows(index) if kind == "rows" else Columns(index)
        elif kind == "frozen":
            plan[name] = Frozen()
        elif kind == "full":
            plan[name], mask = Full(), ~mask
        else:
            mask = torch.rand(p.shape, generator=generator) < 0.4
            plan[name] = Elements(mask)
        masks[name] = mask
    return UpdatePlan(plan), masks


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("name", ["gpt2", "mixtral", "gpt_oss", "mamba"])
def test_training_is_dense_training_under_masks(name: str, seed: int) -> None:
    model = tiny(name)
    dense = copy.deepcopy(model)
    plan, masks = random_plan(model, seed)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    oracle = DenseMaskedAdamW(dense, UpdatePlan(), lr=1e-2, max_norm=1.0)
    oracle.masks = masks
    with SelectiveUpdate(model, plan) as engine:
        for _ in range(2):
            answer_loss(model, BATCH, 6.0)[0].backward()
            assert engine.clip(1.0) == pytest.approx(oracle.step([BATCH]), rel=1e-6)
            engine.step(1e-2)
            engine.zero_grad()
    expected = dict(dense.named_parameters())
    for n, p in model.named_parameters():
        close = 2e-3 if name == "mamba" else 1e-7  # it scans in float32
        torch.testing.assert_close(p, expected[n], rtol=0, atol=close, msg=n)
        assert torch.equal(p[~masks[n]], before[n][~masks[n]]), n


def test_conv1d_pays_for_the_selected_units_alone() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    def in_place(out: Any, a: tuple[int, int], b: tuple[int, int], **_: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    def work(plan: UpdatePlan) -> int:
        model = tiny("gpt2")
        counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place})
        with SelectiveUpdate(model, plan), counter:
            answer_loss(model, BATCH, 6.0)[0].backward()
        return int(counter.get_total_flops())

    name = "transformer.h.1.mlp.c_fc.weight"
    none, some, whole = (
        work(UpdatePlan({name: selection}, Frozen()))
        for selection in (Columns(torch.arange(1)), Columns(torch.arange(32)), Full())
    )
    assert (some - none) * 63 == (whole - none) * 31  # of 64 units


def looped(model: Any, names: list[str]) -> dict[str, Tensor]:
    """Squared gradients of each sample's summed log-likelihood, by autograd alone."""
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters() if n in names}
    for sample in ONE_BY_ONE:
        model.zero_grad()
        plain_loss(model, sample, 1.0).backward()
        for n, p in model.named_parameters():
            if n in total and p.grad is not None:
                total[n] += p.grad.square()
    model.zero_grad()
    return total


@pytest.mark.parametrize("granularity", ["rows", "columns", "elements"])
@pytest.mark.parametrize("name", REACHED)
def test_fisher_is_of_output_units(name: str, granularity: Any) -> None:
    model = tiny(name)
    mine = fisher_scores(model, [BATCH], granularity)
    dense = looped(model, list(mine))
    assert set(mine) == set(scored_parameters(model))
    for n, score in mine.items():
        square = dense[n]
        if granularity != "elements" and square.dim() > 1:
            rows = granularity == "rows"
            if name == "gpt2":
                square = square.sum(0 if rows else 1)
            elif name == "gpt_oss" and n.endswith(("gate_up_proj", "down_proj")):
                square = square.sum(1 if rows else 2)
            elif "experts" in n and not n.endswith("bias"):
                square = square.sum(2 if rows else 1)
            elif "conv1d" in n:
                square = square.sum((1, 2)) if rows else square.sum(0)
            elif "experts" not in n:
                square = square.sum(1 if rows else 0)
        scale = float(square.max())
        assert score.shape == square.shape, n
        close = {"mamba": 1e-4, "bloom": 1e-6}.get(name, 1e-8)  # they compute parts in float32
        assert float((score - square).abs().max()) <= close * scale + 1e-20, n


def test_names_are_shortened_to_patterns() -> None:
    assert patterns([f"model.layers.{i}.mlp.gate.weight" for i in (0, 11)]) == [
        "model.layers.*.mlp.gate.weight"
    ]
    assert set(CONFIGS) > set(REACHED)


def test_experts_are_loaded_in_float64_too(tmp_path: Path) -> None:
    tiny("mixtral", torch.float32).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    model, _ = load_model(tmp_path, "float64")
    assert answer_loss(model, BATCH, 6.0)[0].dtype == torch.float64


def test_an_adapter_on_experts_is_merged_into_them() -> None:
    model, ids = tiny("olmoe"), BATCH["input_ids"]
    options = LoRAOptions(target_modules="all-linear", dropout=0)
    wrapped = adapted(model, options, "all-linear").double().eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
        beside = wrapped(ids).logits
        torch.testing.assert_close(wrapped.merge_and_unload()(ids).logits, beside)
