"""Block expansion against a larger model that is put together and trained by plain loops."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from cl_bench.costs.shapes import meta_shapes, shapes_of
from cl_bench.costs.total import total
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve_file
from cl_bench.methods.block_expansion import BlockExpansion, BlockExpansionOptions
from tests.helpers.configs import write
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    assert_close,
    make_stage,
    model64,
    reference_training,
    run_method,
    weights,
)
from tests.helpers.tiny import tiny_model

KINDS = ("llama", "qwen2")


def method(**options: Any) -> BlockExpansion:
    return BlockExpansion(BlockExpansionOptions(**options))


def put_together(model: Any, sources: list[int], zero: list[int]) -> Any:
    """A new model whose layer n has the weights of layer `sources[n]` of another one.

    Those of `zero` begin as the identity.
    """
    values = model.config.to_dict() | {"num_hidden_layers": len(sources)}
    values.pop("layer_types", None)
    found: Any = type(model)(type(model.config)(**values)).to(model.dtype).eval()
    state = {n: w for n, w in model.state_dict().items() if ".layers." not in n}
    for place, source in enumerate(sources):
        for name, weight in model.model.layers[source].state_dict().items():
            nothing = place in zero and name.split(".")[-2] in ("o_proj", "down_proj")
            value = torch.zeros_like(weight) if nothing else weight.clone()
            state[f"model.layers.{place}.{name}"] = value
    found.load_state_dict(state)
    return found


def layer_names(model: nn.Module, *numbers: int) -> list[str]:
    starts = tuple(f"model.layers.{n}." for n in numbers)
    return [name for name, _ in model.named_parameters() if name.startswith(starts)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocks", ["same", "new"])
def test_two_stages_are_those_of_a_larger_model(kind: Any, blocks: Any) -> None:
    """Five layers, one behind every second: 0 1 A 2 3 B 4, then 0 1 A C 2 3 B D 4."""
    model = model64(layers=5, kind=kind)
    larger = put_together(model, [0, 1, 1, 2, 3, 3, 4], [2, 5])
    reference_training(larger, OLD, TRAIN, 1, trained=layer_names(larger, 2, 5))
    first, batcher = make_stage(model, OLD, TRAIN)
    run_method(method(every=2, blocks=blocks), first, batcher, 1)
    assert_close(weights(model), weights(larger))
    assert first.notes["trained_layers"] == [2, 5]

    trained, begun = [2, 5], copy.deepcopy(model)
    if blocks == "new":
        begun = put_together(begun, [0, 1, 2, 2, 3, 4, 5, 5, 6], [3, 7])
        larger, trained = put_together(larger, [0, 1, 2, 2, 3, 4, 5, 5, 6], [3, 7]), [3, 7]
    reference_training(larger, NEW, TRAIN, 1, 2, trained=layer_names(larger, *trained))
    second, batcher = make_stage(model, NEW, TRAIN, 2)
    run_method(method(every=2, blocks=blocks), second, batcher, 1)
    assert_close(weights(model), weights(larger))
    assert second.notes["trained_layers"] == trained
    moved = {n for n, w in weights(model).items() if not torch.equal(w, weights(begun)[n])}
    assert moved == set(layer_names(model, *trained)), "frozen layers have the same bits"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_begins_with_the_same_bits(kind: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    """In memory, and from a folder that transformers alone reads; with and without a cache."""
    tiny_model(kind=kind, dtype=dtype).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    ids = torch.tensor([[3, 4, 5, 6]])
    logits, text = model(input_ids=ids).logits, model.generate(ids, max_new_tokens=5)
    stage, _ = make_stage(model, NEW, TRAIN)
    for index in (1, 2):  # once more from what was added
        stage.index = index
        method(every=1, blocks="new").prepare(stage)
    assert torch.equal(model(input_ids=ids).logits, logits)
    assert torch.equal(model.generate(ids, max_new_tokens=5), text)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["num_hidden_layers"] == 6 and config["added_layers"] == [1, 2, 4, 5]
    assert len(config.get("layer_types") or [0] * 6) == 6
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert torch.equal(again(input_ids=ids).logits, logits)
    assert torch.equal(again.generate(ids, max_new_tokens=5), text)


def test_biases_behind_the_branches_begin_at_0() -> None:
    values = tiny_model().config.to_dict() | {"attention_bias": True, "mlp_bias": True}
    model = type(tiny_model())(type(tiny_model().config)(**values)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(0.5)
    ids = torch.tensor([[3, 4, 5, 6]])
    logits = model(input_ids=ids).logits
    stage, _ = make_stage(model, NEW, TRAIN)
    method(every=1).prepare(stage)
    assert torch.equal(model(input_ids=ids).logits, logits)


def test_a_grown_model_is_counted_as_it_grows() -> None:
    shapes = shapes_of(tiny_model())
    layer = sum(p.numel() for p in tiny_model().get_submodule("model.layers.0").parameters())
    same, new = total(method(every=1), shapes), total(method(every=1, blocks="new"), shapes)
    assert same.base.entries == new.base.entries == 2 * layer
    assert same.base.weights == 4 * (shapes.numel + 2 * layer)
    assert new.base.weights == 4 * (shapes.numel + 4 * layer)


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        ({"model_type": "gpt2", "n_layer": 2}, {}, "of type gpt2"),
        ({"model_type": "qwen3_moe", "num_hidden_layers": 4}, {}, "of type qwen3_moe"),
        (
            {
                "model_type": "qwen2",
                "num_hidden_layers": 4,
                "use_sliding_window": True,
                "max_window_layers": 2,
            },
            {},
            "differ in kind",
        ),
        ({"model_type": "llama", "num_hidden_layers": 3}, {}, "every: 4: this model has 3 layers"),
    ],
)
def test_models_without_such_a_layer_are_refused(values: Any, options: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        method(**options).trains(meta_shapes(values))


def test_methods_that_know_layers_by_number_do_not_go_with_it(tmp_path: Path) -> None:
    faults = {"ewc": 1, "l2sp": 1, "kl_base": 1, "ema": 1, "wise": 1, "replay": 0, "migu": 0}
    for other, count in faults.items():
        both = [{"compose": ["block_expansion", other]}]
        (run,) = resolve_file(write(tmp_path, methods=both)).runs
        assert len(list(method().refuses(run.stages[0]))) == count, other
    turned = [{"compose": ["replay", "block_expansion"]}]
    (run,) = resolve_file(write(tmp_path, methods=turned)).runs
    (fault,) = method().refuses(run.stages[0])
    assert "list it first" in fault
