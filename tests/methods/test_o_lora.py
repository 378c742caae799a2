"""O-LoRA against one plain adapter a stage over merged weights, its terms written out."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel

from cl_bench.methods.adapter_checks import target_faults
from cl_bench.methods.lora import LoRA, LoRAOptions
from cl_bench.methods.o_lora import OLoRA, OLoRAOptions
from cl_bench.methods.targets import adapted
from tests.helpers.architectures import CONFIGS
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    Gradients,
    assert_close,
    examples,
    make_stage,
    model64,
    reference_training,
    run_method,
    weights,
)

OPTIONS = OLoRAOptions(r=2, lora_alpha=6, dropout=0.0, lambda_1=0.3, lambda_2=0.05)
PLAIN = LoRAOptions(r=2, lora_alpha=6, dropout=0.0)
STAGES = (OLD, NEW, examples("newer", 5))


def merged(model: Any) -> Gradients:
    return weights(copy.deepcopy(model).merge_and_unload())


def reloaded(model: Any, base: Any, folder: Path) -> Any:
    """As the next stage finds it: base and adapter from files."""
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(
        copy.deepcopy(base), folder, is_trainable=True, autocast_adapter_dtype=False
    )


def test_a_stage_trains_an_adapter_of_its_own_orthogonal_to_those_before(tmp_path: Path) -> None:
    base = model64()
    expected: Any = copy.deepcopy(base)
    model: Any = copy.deepcopy(base)
    old: dict[str, list[torch.Tensor]] = {}
    for index, items in enumerate(STAGES, 1):
        stage, batcher = make_stage(model, items, TRAIN, index)
        start, _ = make_stage(copy.deepcopy(model), items, TRAIN, index)
        OLoRA(OPTIONS).prepare(start)
        assert_close(merged(start.model), weights(expected), 1e-12)  # B begins with 0
        before = weights(stage.model)
        run_method(OLoRA(OPTIONS), stage, batcher, epochs=2)
        after = weights(stage.model)

        expected = adapted(
            expected, LoRAOptions(r=2, lora_alpha=6, dropout=0.0), ["q_proj", "v_proj"]
        )
        names = [name for name, p in expected.named_parameters() if p.requires_grad]
        with torch.no_grad():
            for name in names:
                own = start.model.get_parameter(name)
                expected.get_parameter(name).copy_(own[-2:] if "lora_A" in name else own[:, -2:])

        def terms(gradients: Gradients, of: Any = expected) -> None:
            for name, gradient in gradients.items():
                value = of.get_parameter(name).detach()
                for one in old.get(name, []):
                    gradient += 0.3 * (one @ value.T).sign().T @ one
                if bool(value.any()):
                    gradient += 0.05 * value / value.square().sum().sqrt()

        reference_training(expected, items, TRAIN, 2, index, before_step=terms, trained=names)
        for name in names:
            if "lora_A" in name:
                old.setdefault(name, []).append(expected.get_parameter(name).detach().clone())
            kept = 2 * (index - 1)
            frozen = (slice(kept),) if "lora_A" in name else (slice(None), slice(kept))
            if index > 1:
                assert torch.equal(after[name][frozen], before[name])
            for place, one in enumerate(old.get(name, [])):
                torch.testing.assert_close(
                    after[name][2 * place : 2 * place + 2], one, rtol=0, atol=1e-9
                )
        expected = expected.merge_and_unload().requires_grad_(True)
        assert_close(merged(stage.model), weights(expected))
        assert stage.notes["adapters"] == index
        model = reloaded(stage.model, base, tmp_path / str(index))


def test_its_first_stage_is_lora() -> None:
    ours, theirs = make_stage(model64(), NEW, TRAIN), make_stage(model64(), NEW, TRAIN)
    options = {"r": 2, "dropout": 0.0}
    OLoRA(OLoRAOptions(**options)).prepare(ours[0])
    theirs[0].model = copy.deepcopy(ours[0].model)
    ours[0].model = model64()
    run_method(OLoRA(OLoRAOptions(**options)), *ours, 1)
    run_method(LoRA(LoRAOptions(**options)), *theirs, 1)
    assert_close(weights(ours[0].model), weights(theirs[0].model), 0)


def test_experts_in_one_matrix_are_refused(tmp_path: Path) -> None:
    CONFIGS["olmoe"]().save_pretrained(tmp_path)
    part = SimpleNamespace(
        method=OLoRA, options=OLoRAOptions(target_modules="all-linear", dropout=0.0)
    )
    run = SimpleNamespace(label="o_lora", stages=[SimpleNamespace(parts=[part])])
    found: Any = SimpleNamespace(runs=[run], model_path=tmp_path, note=pytest.fail)
    assert "experts" in next(iter(target_faults(found)))
