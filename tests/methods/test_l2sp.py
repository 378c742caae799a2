"""L2-SP against the gradient of its penalty written out plainly."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cl_bench.methods.compose import Composite
from cl_bench.methods.fggm import FGGM
from cl_bench.methods.l2sp import L2SP, L2SPOptions
from cl_bench.methods.lora import LoRA, LoRAOptions
from cl_bench.methods.sft import SFT
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    Gradients,
    assert_close,
    make_stage,
    model64,
    reference_training,
    run_method,
    weights,
)
from tests.helpers.sequences import run_sequence


def l2sp(**options: Any) -> L2SP:
    return L2SP(L2SPOptions.model_validate(options))


@pytest.mark.parametrize("anchor", ["base", "previous"])
def test_l2sp_pulls_to_its_anchor(anchor: str) -> None:
    expected = model64(layers=1)
    base = weights(expected)
    for index, items in enumerate((OLD, NEW), 1):
        towards = base if anchor == "base" else weights(expected)

        def pull(gradients: Gradients, towards: Gradients = towards) -> None:
            for name, gradient in gradients.items():
                gradient += 3.0 * (expected.get_parameter(name).detach() - towards[name])

        reference_training(expected, items, TRAIN, 2, index, before_step=pull)
    make = lambda: l2sp(**{"lambda": 3.0, "anchor": anchor})  # noqa: E731
    *_, last = run_sequence(make, model64(layers=1), (OLD, NEW), TRAIN, 2)
    assert_close(last.weights, weights(expected))


def test_without_strength_it_is_plain_fine_tuning() -> None:
    *_, plain = run_sequence(SFT, model64(layers=1), (OLD, NEW), TRAIN)
    *_, ours = run_sequence(lambda: l2sp(**{"lambda": 0}), model64(layers=1), (OLD, NEW), TRAIN)
    assert_close(ours.weights, plain.weights, 0)


def test_beside_masks_and_adapters_it_pulls_what_is_trained() -> None:
    start = model64(layers=1)
    free, held = copy.deepcopy(start), copy.deepcopy(start)
    run_method(FGGM(), *make_stage(free, NEW, TRAIN, 2), 2)
    strong = {"lambda": 100.0, "anchor": "previous"}
    run_method(Composite([FGGM(), l2sp(**strong)]), *make_stage(held, NEW, TRAIN, 2), 2)
    before = weights(start)
    far, near = (
        sum(float((v - before[n]).square().sum()) for n, v in weights(model).items())
        for model in (free, held)
    )
    assert near < far / 2
    for name, value in weights(held).items():
        still = weights(free)[name] == before[name]
        assert (value[still] == before[name][still]).all()
    parts = [LoRA(LoRAOptions(r=2, dropout=0.0)), l2sp(**strong)]
    stage, batcher = make_stage(copy.deepcopy(start), NEW, TRAIN)
    run_method(Composite(parts), stage, batcher, 1)
    assert all("lora_" in name for name in parts[1]._anchor)  # type: ignore[attr-defined]
