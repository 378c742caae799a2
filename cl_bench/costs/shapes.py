"""Parameter shapes of a model: all that its cost is computed from, without its weights.

Decoders of Llama's kind are laid out here from the values of their `config.json`, in milliseconds
and without torch. Other models are built by transformers on the meta device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cl_bench.models.kinds import DECODERS
from cl_bench.models.layouts import Layout, Shape, layouts


@dataclass(frozen=True)
class Architecture:
    """What activations depend on beside the parameters: a decoder of `DECODERS`."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


@dataclass(frozen=True)
class Shapes:
    """Parameter shapes of a model, a tied weight once.

    `embeddings`: which of them are token embeddings or the output head. When `parameters` are an
    adapter's alone, of the frozen model below it `backbone`: entries of block matrices, and
    `below`: all entries. `kind`: the config's `model_type`. `layouts`: of the parameters whose
    shape alone does not tell theirs. `config`: the values that transformers built the model from,
    None for models that are laid out here. `earlier`: how many stages come before the one that is
    counted, for what grows with them.
    """

    parameters: Mapping[str, Shape]
    embeddings: frozenset[str] = frozenset()
    dtype_bytes: int = 2
    architecture: Architecture | None = None
    backbone: int = 0
    kind: str = ""
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    config: Mapping[str, Any] | None = field(default=None, compare=False)
    below: int = 0
    earlier: int = 1

    def layout(self, name: str) -> Layout:
        """Which dimensions of a parameter are output units and inputs."""
        return self.layouts.get(name) or Layout.of_shape(self.parameters[name])

    @property
    def numel(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.parameters.values())

    @property
    def model_bytes(self) -> int:
        """Bytes of the weights of a copy of the model, with what is frozen below adapters."""
        return (self.numel + self.below) * self.dtype_bytes

    @property
    def products(self) -> int:
        """Entries that a token is multiplied by: block matrices, neither embedding nor head.

        Of experts those that a token goes through.
        """
        active = (self.active(n, math.prod(s)) for n, s in self.parameters.items())
        return self.backbone + sum(active)

    @property
    def entry_bytes(self) -> int:
        """Bytes of a gradient, master, moment or Fisher entry: float32, for float64 models 8."""
        return max(4, self.dtype_bytes)

    def is_product(self, name: str) -> bool:
        """Whether tokens are multiplied by the parameter."""
        return bool(self.layout(name).inputs) and name not in self.embeddings

    def active(self, name: str, entries: int) -> int:
        """How many of so many entries of a parameter a token is multiplied by."""
        return round(entries * self.layout(name).active) if self.is_product(name) else 0

    def adapted(self, adapters: Mapping[str, Shape]) -> Shapes:
        """What a method sees that works on adapters of this model: their shapes alone."""
        return replace(
            self,
            parameters=adapters,
            embeddings=frozenset(),
            backbone=self.products,
            below=self.numel,
            layouts={},
            config=None,
        )


def decoder_shapes(config: Mapping[str, Any], dtype_bytes: int = 2) -> Shapes | None:
    """Shapes from the values of a config.json; None for a `model_type` not in `DECODERS`.

    Raises KeyError where the config lacks a value that such a model must have.
    """
    a = architecture_of(config)
    if a is None:
        return None
    parameters: dict[str, Shape] = {"model.embed_tokens.weight": (a.vocabulary, a.hidden)}
    for layer in range(a.layers):
        for name, shape in _layer(a, config):
            parameters[f"model.layers.{layer}.{name}"] = shape
    parameters["model.norm.weight"] = (a.hidden,)
    embeddings = {"model.embed_tokens.weight"}
    if not config.get("tie_word_embeddings", False):
        parameters["lm_head.weight"] = (a.vocabulary, a.hidden)
        embeddings.add("lm_head.weight")
    kind = str(config["model_type"])
    return Shapes(parameters, frozenset(embeddings), dtype_bytes, a, kind=kind)


def architecture_of(config: Mapping[str, Any]) -> Architecture | None:
    """The numbers that decide activations; None for a `model_type` not in `DECODERS`."""
    if config.get("model_type") not in DECODERS:
        return None
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    return Architecture(
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        intermediate=int(config["intermediate_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        vocabulary=int(config["vocab_size"]),
    )


def _layer(a: Architecture, config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    """Names within a layer and their shapes; matrices are [Dout, Din]."""
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
    matrices = {
        "self_attn.q_proj": (queries, a.hidden),
        "self_attn.k_proj": (keys, a.hidden),
        "self_attn.v_proj": (keys, a.hidden),
        "self_attn.o_proj": (a.hidden, queries),
        "mlp.gate_proj": (a.intermediate, a.hidden),
        "mlp.up_proj": (a.intermediate, a.hidden),
        "mlp.down_proj": (a.hidden, a.intermediate),
    }
    for name, shape in matrices.items():
        yield f"{name}.weight", shape
        if _has_bias(name, config):
            yield f"{name}.bias", shape[:1]
    yield "input_layernorm.weight", (a.hidden,)
    yield "post_attention_layernorm.weight", (a.hidden,)


def _has_bias(name: str, config: Mapping[str, Any]) -> bool:
    if config["model_type"] == "qwen2":
        return name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    key = "attention_bias" if name.startswith("self_attn") else "mlp_bias"
    return config["model_type"] == "llama" and bool(config.get(key, False))


def shapes_of(model: Any) -> Shapes:
    """Shapes of a loaded (or meta-device) Hugging Face model; a tied head appears once."""
    import torch

    parameters = {name: tuple(p.shape) for name, p in model.named_parameters()}
    head = model.get_output_embeddings()
    skipped = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding) or module is head
        for parameter in module.parameters(recurse=False)
    }
    embeddings = frozenset(n for n, p in model.named_parameters() if id(p) in skipped)
    size = next(model.parameters()).element_size()
    config = model.config.to_dict()
    own = {n: one for n, one in layouts(model).items() if one != Layout.of_shape(parameters[n])}
    a, kind = architecture_of(config), str(config.get("model_type", ""))
    return Shapes(parameters, embeddings, size, a, 0, kind, own, config)


def meta_shapes(config: Mapping[str, Any], dtype_bytes: int = 2) -> Shapes:
    """Shapes of any causal model of transformers, from the values of its config.json.

    Raises ValueError or KeyError where transformers does not know the model or its values.
    """
    return replace(shapes_of(meta_model(config)), dtype_bytes=dtype_bytes)


def meta_model(config: Mapping[str, Any]) -> Any:
    """The causal model of a config.json without its weights. Raises as `meta_shapes` does."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {key: value for key, value in config.items() if key != "quantization_config"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    model.tie_weights()
    return model
