"""LoRA's targets: a default for each architecture, exact sizes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel

from cl_bench.config.schema import ExperimentConfig, TrainConfig
from cl_bench.costs.shapes import decoder_shapes, shapes_of
from cl_bench.costs.trained import lora_adapters
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve
from cl_bench.methods.adapter_checks import continuity_faults, target_faults
from cl_bench.methods.direct_reads import direct_reads
from cl_bench.methods.lora import LoRA, LoRAOptions
from cl_bench.methods.targets import adapted, adapter_shapes, linear_layers
from tests.helpers.architectures import CONFIGS, tiny
from tests.helpers.reference import examples, make_stage, run_method

DEFAULTS = {
    "llama": ["q_proj", "v_proj"],
    "gpt2": ["c_attn"],
    "gpt_neox": ["query_key_value"],
    "bloom": ["query_key_value"],
    "falcon": ["query_key_value"],
    "phi3": ["qkv_proj"],
    "mamba": ["in_proj"],
    "mixtral": ["q_proj", "v_proj"],
    "gpt_oss": ["q_proj", "v_proj"],
}


def lora(**options: Any) -> LoRA:
    return LoRA(LoRAOptions.model_validate(options))


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_adapted_counted_and_noted(name: str) -> None:
    model = tiny(name, torch.float32)
    method, cost = lora(), lora().trains(shapes_of(model))
    stage: Any = SimpleNamespace(model=model, seed=1, notes={}, device=torch.device("cpu"))
    method.prepare(stage)
    assert isinstance(stage.model, PeftModel)
    assert stage.notes == {"target_modules": DEFAULTS[name]}
    added = [p for n, p in stage.model.named_parameters() if p.requires_grad]
    assert cost.entries == sum(p.numel() for p in added) > 0
    said = cost.adds.remarks == (f"adapts {', '.join(DEFAULTS[name])} (target_modules)",)
    assert said or DEFAULTS[name] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    "targets", [["embed_tokens"], ["lm_head", "q_proj"], "all-linear", ["1.mlp.up_proj"]]
)
def test_what_is_counted_without_torch_is_what_peft_adds(targets: Any) -> None:
    config = CONFIGS["llama"]().to_dict()
    shapes = decoder_shapes(config)
    assert shapes is not None
    added = adapter_shapes(config, LoRAOptions(r=3, target_modules=targets))
    counted = lora_adapters(shapes, 3, targets).adapters
    assert sorted(counted.values()) == sorted(added.values())


def test_experts_are_counted_and_their_dropout_refused() -> None:
    shapes = shapes_of(tiny("olmoe"))
    with pytest.raises(UserError, match="dropout: 0"):
        lora(target_modules="all-linear").trains(shapes)
    cost = lora(target_modules="all-linear", dropout=0, r=1).trains(shapes)
    assert any("experts" in name for name in cost.adapters)


REFUSED = [
    ("llama", {"target_modules": ["q_proj", "v_prj"]}, "v_prj: not in this model"),
    ("gpt_neox", {"target_modules": "query_key_value"}, "write [query_key_value]"),
    ("phi3", {"target_modules": ["norm"]}, "PEFT refuses it"),
    ("mamba", {"target_modules": ["out_proj"]}, "incompatible"),
    ("mamba", {"target_modules": ["in_proj", "dt_proj"]}, "dt_proj has no effect"),
    ("jamba", {"target_modules": "all-linear", "dropout": 0}, "dt_proj has no effect"),
    ("llama4", {"target_modules": "all-linear", "dropout": 0}, "router returns more"),
    ("mixtral", {"target_modules": "all-linear"}, "dropout: 0"),
    ("bloom", {"target_modules": ["word_embeddings"]}, "one weight"),
    ("gpt2", {"target_modules": ["c_attn", "lm_head"]}, "one weight"),
]


def experiment(methods: Any, stages: Any = None) -> ExperimentConfig:
    tasks = ["trace_fomc", "trace_cstance", "trace_py150"]
    return ExperimentConfig.model_validate(
        {"name": "x", "model": {"path": "m"}, "stages": stages or [{"task": t} for t in tasks]}
        | ({"methods": methods} if methods else {})
    )


@pytest.mark.parametrize(("name", "options", "said"), REFUSED)
def test_refused_before_the_start(tmp_path: Path, name: str, options: Any, said: str) -> None:
    CONFIGS[name]().save_pretrained(tmp_path)
    runs = resolve(experiment(["sft", {"name": "lora", "label": "mine"} | options])).runs
    found: Any = SimpleNamespace(runs=runs, model_path=tmp_path)
    (fault,) = target_faults(found)
    assert said in fault and fault.startswith("methods: mine: ")


def test_sound_targets_pass(tmp_path: Path) -> None:
    CONFIGS["llama"]().save_pretrained(tmp_path)
    methods = ["lora", {"name": "lora", "label": "b", "target_modules": ["embed_tokens"]}]
    found: Any = SimpleNamespace(runs=resolve(experiment(methods)).runs, model_path=tmp_path)
    assert list(target_faults(found)) == []


def effects(model: Any, targets: list[str]) -> set[str]:
    """Names of the layers whose adapter, filled with noise, changes the logits."""
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    wrapped = adapted(model, LoRAOptions(target_modules=targets, dropout=0), targets).eval()
    found = set()
    with torch.no_grad():
        plain = wrapped(ids).logits
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
                if not torch.equal(wrapped(ids).logits, plain):
                    found.add(name.split(".lora_")[0].removeprefix("base_model.model."))
                parameter.zero_()
    return found


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("mamba", ["in_proj", "x_proj", "dt_proj"]),
        ("jamba", ["in_proj", "dt_proj", "out_proj", "q_proj", "down_proj"]),
        ("bloom", ["dense", "query_key_value", "dense_4h_to_h"]),
        ("gpt2", ["c_attn", "c_proj"]),
    ],
)
def test_layers_that_are_read_are_those_whose_adapter_does_nothing(name: str, targets: Any) -> None:
    model = tiny(name, torch.float32)
    read = direct_reads(model)
    layers = [n for n in linear_layers(model) if n.rsplit(".", 1)[-1] in targets]
    assert effects(model, targets) == {n for n in layers if read.get(n, True)}


def test_what_fused_kernels_bypass_is_said(tmp_path: Path) -> None:
    CONFIGS["mamba"]().save_pretrained(tmp_path)
    methods = ["lora", {"name": "lora", "label": "b", "target_modules": ["in_proj", "x_proj"]}]
    said: list[str] = []
    found: Any = SimpleNamespace(
        runs=resolve(experiment(methods)).runs, model_path=tmp_path, note=said.append
    )
    assert list(target_faults(found)) == []
    (line,) = said
    assert line.startswith("b: fused kernels") and "mixer.x_proj" in line and "in_proj" not in line


def test_an_adapter_that_nothing_came_through_is_noted() -> None:
    model = tiny("mamba", torch.float32)
    stage, batcher = make_stage(model, examples("t", 2), TrainConfig(lr=1e-3, batch_size=2))
    run_method(lora(target_modules=["in_proj", "dt_proj"]), stage, batcher, 1)
    assert stage.notes["without_effect"] == ["backbone.layers.*.mixer.dt_proj"]


def changes(*methods: Any) -> list[str]:
    tasks = ["trace_fomc", "trace_cstance", "trace_py150"]
    stages = [{"task": t, "method": m} for t, m in zip(tasks, methods, strict=False)]
    found: Any = SimpleNamespace(runs=resolve(experiment(None, stages)).runs)
    return list(continuity_faults(found))


BOTH = {"compose": ["lora", "ewc"], "label": "both"}
GROWING = {"compose": ["o_lora", "ewc"], "label": "growing"}


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ((BOTH, "ewc"), "an adapter of stage 1, and stage 2 trains the weights"),
        (("ewc", BOTH), "the weights of stage 1, and stage 2 trains an adapter"),
        ((BOTH, "sft", BOTH), "an adapter of stage 1, and stage 3 trains another adapter"),
        (("lora", {"name": "lora", "r": 4}), "cannot have another r;"),
        (("o_lora", {"name": "o_lora", "r": 4}), "cannot have another r;"),
        (("o_lora", "lora"), "which lora cannot"),
        (("ogd", "sft", "ogd"), "ogd remembers an adapter of stage 1, and stage 3 trains another"),
        ((GROWING, GROWING), "an adapter of stage 1, and stage 2 trains another adapter"),
    ],
)
def test_what_does_not_fit_the_stage_before_is_refused(methods: Any, said: str) -> None:
    (fault,) = changes(*methods)
    assert said in fault


@pytest.mark.parametrize(
    "methods",
    [
        (BOTH, BOTH, "lora"),
        ("ewc", "lora", "ewc"),
        ("ogd", "lora", {"name": "ogd", "project": "update"}),
        ("lora", "sft", {"name": "lora", "r": 4}),
        ("lora", "o_lora", {"name": "o_lora", "lambda_1": 5}),
    ],
)
def test_what_fits_is_not(methods: Any) -> None:
    assert changes(*methods) == []
