"""Methods that freeze parameters by name: norms alone, layers, half of everything."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cl_bench.costs.shapes import shapes_of
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve_file
from cl_bench.methods.base import Method
from cl_bench.methods.freeze_layers import FreezeLayers, FreezeLayersOptions
from cl_bench.methods.hft import HFT, HFTOptions, categories
from cl_bench.methods.layernorm import LayerNorm
from cl_bench.methods.sft import SFT
from cl_bench.methods.static_checks import trained_faults
from cl_bench.models.places import is_norm, numbered_layers
from cl_bench.report.plan import plan_text
from cl_bench.training.update_plan import Frozen
from tests.helpers.architectures import CONFIGS, tiny
from tests.helpers.reference import (
    NEW,
    TRAIN,
    assert_close,
    make_stage,
    model64,
    reference_training,
    run_method,
    weights,
)


def frozen_by(method: Method, model: Any, index: int = 2) -> set[str]:
    plan = method.plan(make_stage(model, NEW, TRAIN, index)[0])
    names = [name for name, _ in model.named_parameters()]
    return {name for name in names if plan is not None and isinstance(plan.of(name), Frozen)}


def trains_the_rest(method: Method, frozen: set[str], **options: Any) -> None:
    """Training is that of a plain loop over the other parameters; frozen ones keep their bits."""
    start = model64(**options)
    expected, model = copy.deepcopy(start), copy.deepcopy(start)
    trained = [name for name, _ in start.named_parameters() if name not in frozen]
    reference_training(expected, NEW, TRAIN, 2, index=2, trained=trained)
    run_method(method, *make_stage(model, NEW, TRAIN, 2), epochs=2)
    assert_close(weights(model), weights(expected))
    before = weights(start)
    for name, value in weights(model).items():
        assert torch.equal(value, before[name]) == (name in frozen), name


def normalising(model: nn.Module) -> set[str]:
    """Vectors of modules whose class is a norm's."""
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__
        for name, p in module.named_parameters(recurse=False)
        if p.dim() == 1
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_norms_and_layers_are_told_by_names(name: str) -> None:
    model: Any = tiny(name)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert {n for n, shape in shapes.items() if is_norm(n, shape)} == normalising(model)
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    layers = next(m for m in lists if len(m) == 2)
    own = {id(p): i for i, layer in enumerate(layers) for p in layer.parameters()}
    expected = {n: own[id(p)] for n, p in model.named_parameters() if id(p) in own}
    assert numbered_layers(shapes) == expected


def test_layernorm_trains_norms_alone() -> None:
    model = model64(kind="qwen2")
    frozen = {n for n, p in model.named_parameters() if "norm" not in n}
    trains_the_rest(LayerNorm(), frozen, kind="qwen2")
    shapes = shapes_of(model)
    assert LayerNorm().trains(shapes).entries == 5 * 32
    bare = {name: shape for name, shape in shapes.parameters.items() if "norm" not in name}
    with pytest.raises(UserError, match="norms of this model have no weights"):
        LayerNorm().trains(type(shapes)(bare, shapes.embeddings))


LAST = {"model.norm.weight", "lm_head.weight"}


@pytest.mark.parametrize(
    ("options", "also"),
    [
        ({}, {"model.embed_tokens.weight"}),
        ({"ends": "trained"}, set()),
        ({"side": "top"}, LAST),
        ({"side": "top", "layers": 0}, LAST),
    ],
)
def test_layers_of_a_side_are_frozen(options: dict[str, Any], also: set[str]) -> None:
    method = FreezeLayers(FreezeLayersOptions(**options))
    number = "0" if options.get("side") != "top" else "1"
    names = [name for name, _ in model64().named_parameters()]
    layer = {n for n in names if n.startswith(f"model.layers.{number}.")}
    frozen = (layer if options.get("layers") != 0 else set()) | also
    trains_the_rest(method, frozen)


def test_tied_embeddings_are_at_the_bottom() -> None:
    model = model64(tie=True)
    assert "model.embed_tokens.weight" in frozen_by(FreezeLayers(), model)
    top = FreezeLayers(FreezeLayersOptions(side="top"))
    assert "model.embed_tokens.weight" not in frozen_by(top, model)


def test_nothing_is_frozen_in_the_first_stage_or_of_no_layers() -> None:
    assert frozen_by(FreezeLayers(), model64(), 1) == set()
    assert frozen_by(FreezeLayers(FreezeLayersOptions(freeze_first_task=True)), model64(), 1)
    plain, ours = model64(), model64()
    run_method(SFT(), *make_stage(plain, NEW, TRAIN, 2), 1)
    none = FreezeLayersOptions(layers=0, ends="trained", freeze_first_task=True)
    run_method(FreezeLayers(none), *make_stage(ours, NEW, TRAIN, 2), 1)
    assert_close(weights(ours), weights(plain), 0)


def test_more_layers_than_the_model_has_are_refused() -> None:
    method = FreezeLayers(FreezeLayersOptions(layers=3))
    with pytest.raises(UserError, match="layers: 3: this model has 2"):
        method.trains(shapes_of(model64()))


def test_the_run_is_refused_before_it_starts() -> None:
    part = SimpleNamespace(
        method=FreezeLayers, options=FreezeLayersOptions(layers=9, side="top", ends="trained")
    )
    run = SimpleNamespace(label="top", stages=[SimpleNamespace(parts=[part])] * 2)
    found: Any = SimpleNamespace(runs=[run, run], skeleton=model64())
    said = "methods: top: freeze_layers: layers: 9: this model has 2"
    assert set(trained_faults(found)) == {said}


def test_plan_tells_the_faults_of_all_methods_at_once(tmp_path: Path) -> None:
    methods = [
        {"name": "freeze_layers", "layers": 9},
        {"name": "freeze_layers", "layers": 8, "label": "eight"},
        "sft",
    ]
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(model64().config.to_json_string())
    file = tmp_path / "x.yaml"
    values = {
        "name": "x",
        "model": {"path": "./m"},
        "methods": methods,
        "stages": [{"task": "trace_fomc"}],
    }
    file.write_text(json.dumps(values))
    with pytest.raises(UserError) as caught:
        plan_text(resolve_file(file, [], []))
    assert caught.value.faults == [
        "methods: freeze_layers: freeze_layers: layers: 9: this model has 2",
        "methods: eight: freeze_layers: layers: 8: this model has 2",
    ]


def test_hft_freezes_half_of_each_category_anew_in_every_stage() -> None:
    model = tiny_llama(4)
    drawn = [frozen_by(HFT(), model, index) for index in range(1, 7)]
    assert len({frozenset(one) for one in drawn}) == 6
    for frozen in drawn:
        counts = []
        for layer in range(4):
            own = [n for n in frozen if f".layers.{layer}." in n]
            assert sum("self_attn" in n for n in own) == 2
            assert sum("norm" in n for n in own) == 1
            counts.append(sum("mlp" in n for n in own))
        assert counts in ([1, 2, 1, 2], [2, 1, 2, 1])
        assert all(".layers." in n for n in frozen)
    both = HFT(HFTOptions(embeddings="frozen"))
    ends = {n for n in frozen_by(both, model) if ".layers." not in n}
    assert ends == {"model.embed_tokens.weight", "lm_head.weight"}
    assert frozen_by(HFT(), model, 3) == drawn[2]


def test_hft_trains_the_other_half() -> None:
    trains_the_rest(HFT(), frozen_by(HFT(), model64(kind="qwen2")), kind="qwen2")


@pytest.mark.parametrize("name", CONFIGS)
def test_categories_of_any_model_hold_each_of_its_layers_parameters_once(name: str) -> None:
    shapes = {n: tuple(p.shape) for n, p in tiny(name).named_parameters()}
    found = [n for layers in categories(shapes) for units in layers for unit in units for n in unit]
    assert sorted(found) == sorted(numbered_layers(shapes))
    half = HFT().trains(shapes_of(tiny(name)))
    assert 0 < half.entries < sum(map(int, (torch.tensor(s).prod() for s in shapes.values())))


def tiny_llama(layers: int) -> Any:
    return model64(layers=layers)
