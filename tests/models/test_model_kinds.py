"""Which models are refused, from config.json and from the names of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cl_bench.errors import UserError
from cl_bench.models.kinds import kind_fault
from cl_bench.models.load import load_model, load_skeleton, model_path_fault
from tests.helpers.tiny import byte_tokenizer, tiny_model

LLAMA = {"model_type": "llama"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "bart", "is_encoder_decoder": True}, "encoder-decoder (seq2seq)"),
        ({"model_type": "roberta"}, "roberta is an encoder (is_decoder is not true)"),
        ({"model_type": "distilbert"}, "no causal language model of type 'distilbert'"),
        ({"model_type": "lama"}, "'lama' is unknown to transformers"),
        ({"model_type": "odd", "auto_map": {"AutoConfig": "x.Y"}}, "code that comes with"),
        ({}, "no model_type"),
        (LLAMA | {"quantization_config": {"quant_method": "hqq"}}, "quant_method hqq"),
        (LLAMA | {"quantization_config": {"bits": 4}}, "quant_method not named"),
        ({"model_type": "gemma3", "text_config": {"quantization_config": {"a": 1}}}, "dequantise"),
    ],
)
def test_other_kinds_are_refused_in_a_line(values: dict[str, Any], said: str) -> None:
    fault = kind_fault(values, "some/model")
    assert fault is not None and said in fault and "\n" not in fault and "some/model" in fault


@pytest.mark.parametrize(
    "values",
    [
        LLAMA,
        LLAMA | {"auto_map": {"AutoConfig": "x.Y"}},
        {"model_type": "roberta", "is_decoder": True},
        {"model_type": "gpt2"},
        {"model_type": "gemma3", "text_config": {}},
    ],
)
def test_causal_models_are_taken(values: dict[str, Any]) -> None:
    assert kind_fault(values, "some/model") is None


def saved(folder: Path, change: Any = None, **options: Any) -> Path:
    """A tiny Llama in a folder, its tensors changed."""
    tiny_model(**options).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    if change is not None:
        file = folder / "model.safetensors"
        tensors = {name: value.clone() for name, value in load_file(file).items()}
        save_file(change(tensors), file, metadata={"format": "pt"})
    return folder


def renamed(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("self_attn.v_proj", "attn.value"): t for name, t in tensors.items()}


def without_norm(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}


def cut_head(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors | {"lm_head.weight": tensors["lm_head.weight"][:99].clone()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (renamed, ["lack", "layers.1.self_attn.v_proj.weight", "takes", "1.attn.value.weight"]),
        (without_norm, ["lack", "model.norm.weight"]),
        (cut_head, ["another shape", "lm_head.weight (file [99, 32], model [259, 32])"]),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, change: Any, said: list[str]) -> None:
    """By the skeleton, before weights are read, and when the model is loaded."""
    folder = saved(tmp_path, change)
    _, faults = load_skeleton(folder)
    assert all(word in "\n".join(faults) for word in said)
    with pytest.raises(UserError) as refused:
        load_model(folder, "float32")
    assert refused.value.faults == faults


def test_harmless_leftovers_and_tied_heads_are_no_faults(tmp_path: Path) -> None:
    def with_buffers(tensors: dict[str, Any]) -> dict[str, Any]:
        layer = "model.layers.0.self_attn"
        mask = torch.ones(4, 4)
        return tensors | {f"{layer}.rotary_emb.inv_freq": mask[0].clone(), f"{layer}.bias": mask}

    skeleton, faults = load_skeleton(saved(tmp_path, with_buffers, tie=True))
    assert faults == []
    assert {p.device.type for p in skeleton.parameters()} == {"meta"}


def test_token_ids_that_the_embedding_lacks(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<|fill|>"})
    tokenizer.save_pretrained(folder)
    assert tokenizer.pad_token_id == 259
    assert load_model(folder, "float32")[1].pad_token_id == 2
    tokenizer.add_special_tokens({"bos_token": "<|go|>"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"BOS token '<\|go\|>' has id 260"):
        load_model(folder, "float32")


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    fault = model_path_fault(str(tmp_path))
    assert fault is not None and "PEFT adapter" in fault


def test_experts_in_float64(tmp_path: Path) -> None:
    from transformers import OlmoeConfig, OlmoeForCausalLM

    config = OlmoeConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_experts=4,
        num_experts_per_tok=2,
        eos_token_id=2,
        pad_token_id=0,
    )
    OlmoeForCausalLM(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    model, _ = load_model(tmp_path, "float64")
    assert model(torch.tensor([[5, 6, 7]])).logits.dtype == torch.float64
