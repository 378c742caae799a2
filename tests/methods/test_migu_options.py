"""MIGU's options and its composition with LoRA, against hooks and masks in plain loops."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cl_bench.config.schema import ExperimentConfig
from cl_bench.costs.shapes import shapes_of
from cl_bench.experiment.resolve import resolve
from cl_bench.methods.compose import Composite
from cl_bench.methods.lora import LoRA, LoRAOptions
from cl_bench.methods.migu import MIGU, MIGUOptions
from tests.helpers.architectures import tiny
from tests.helpers.reference import (
    NEW,
    TRAIN,
    Gradients,
    assert_close,
    encode,
    make_stage,
    model64,
    reference_training,
    run_method,
    weights,
)

ALONE = TRAIN.model_copy(update={"micro_batch_size": 1})


def migu(**options: Any) -> MIGU:
    return MIGU(MIGUOptions.model_validate({"mask_first_task": True, **options}))


def by_hand(model: nn.Module, layers: list[str], trained: list[str] | None = None) -> None:
    """Train in place; one example at a time, so nothing is padded and the head sees everything."""
    sums: dict[str, Tensor] = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, module in model.named_modules():

        def watch(_: nn.Module, args: object, output: Tensor, name: str = name) -> None:
            rows = output.detach().abs().flatten(0, -2).sum(0)
            sums[name] = sums.get(name, 0.0) + rows

        if name in layers:
            module.register_forward_hook(watch)

    def mask(gradients: Gradients) -> None:
        assert sums.keys() == set(layers)
        for name, total in sums.items():
            keep = (total >= torch.quantile(total, 0.7)).to(total)
            own = names[id(model.get_parameter(f"{name}.weight"))]
            gradients[own] *= keep[:, None]  # a tied head's mask is that of the embeddings
        sums.clear()

    reference_training(model, NEW, TRAIN, 1, index=2, before_step=mask, trained=trained)


def linears(model: nn.Module, head: bool) -> list[str]:
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in found if head or name != "lm_head"]


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("head", ["all", "off"])
def test_the_head_counts_everywhere_or_is_not_masked(head: str, tie: bool) -> None:
    start = model64(tie=tie)
    expected, model = copy.deepcopy(start), copy.deepcopy(start)
    layers = linears(expected, head == "all")
    by_hand(expected, layers)
    stage, batcher = make_stage(model, NEW, ALONE, index=2)
    run_method(migu(lm_head=head), stage, batcher, epochs=1)
    assert_close(weights(model), weights(expected))
    assert stage.notes.get("not_masked", []) == ([] if head == "all" or tie else ["lm_head.weight"])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_padding_does_not_count_where_it_is_left_out() -> None:
    start = model64()
    expected, model, counted = (copy.deepcopy(start) for _ in range(3))
    by_hand(expected, linears(expected, head=True))
    train = TRAIN.model_copy(update={"micro_batch_size": 4})
    options = {"lm_head": "all", "count_padding": False}
    run_method(migu(**options), *make_stage(model, NEW, train, index=2), epochs=1)
    assert_close(weights(model), weights(expected))
    run_method(migu(lm_head="all"), *make_stage(counted, NEW, train, index=2), epochs=1)
    with pytest.raises(AssertionError):
        assert_close(weights(counted), weights(expected))


def test_padding_of_experts_does_not_count() -> None:
    """A batch and its examples one by one have the same magnitudes."""
    items = NEW[:4]
    assert len({len(item.input_ids) for item in encode(items, TRAIN)}) > 1
    found = []
    for micro in (1, 4):
        model = tiny("mixtral")
        train = TRAIN.model_copy(update={"micro_batch_size": micro})
        stage, batcher = make_stage(model, items, train, index=2)
        method = migu(count_padding=False)
        seen: dict[str, Tensor] = {}

        class Watched(MIGU):
            def before_step(self, step: Any, seen: dict[str, Tensor] = seen) -> None:
                seen.update({name: m.clone() for name, m in self._magnitude.items()})
                super().before_step(step)

        run_method(Watched(method.options), stage, batcher, epochs=1)
        found.append(seen)
    assert any("experts" in name for name in found[0])
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5)


def test_rows_of_both_factors_of_an_adapter_are_masked() -> None:
    base = model64()
    stage, batcher = make_stage(copy.deepcopy(base), NEW, ALONE, index=2)
    lora = LoRA(LoRAOptions(r=4, lora_alpha=4, dropout=0.0))
    lora.prepare(stage)
    expected = copy.deepcopy(stage.model)
    adapters = [name for name, p in expected.named_parameters() if p.requires_grad]
    layers = [name.removesuffix(".weight") for name in adapters]
    assert len(layers) == 8
    by_hand(expected, layers, trained=adapters)
    run_method(Composite([lora, migu()]), stage, batcher, epochs=1)
    assert_close(weights(stage.model), weights(expected))


def test_an_adapter_after_it_is_refused() -> None:
    def faults(*parts: str) -> list[str]:
        data = {
            "name": "x",
            "model": {"path": "m"},
            "methods": [{"compose": list(parts)}],
            "stages": [{"task": "FOMC"}],
        }
        stage = resolve(ExperimentConfig.model_validate(data)).runs[0].stages[0]
        migu = next(p for p in stage.parts if p.method is MIGU)
        return list(migu.method(migu.options).refuses(stage))

    assert faults("lora", "migu") == []
    (said,) = faults("migu", "lora")
    assert "list lora before migu" in said


def test_the_head_at_all_positions_is_counted() -> None:
    shapes = shapes_of(model64())
    answers, everywhere = (migu(lm_head=h).adds(shapes).work.per_token for h in ("answer", "all"))
    assert everywhere - answers == 2 * 259 * 32
