"""What kinds of model cl-bench trains and scores, asked of the values of a config.json.

Nothing here loads weights, and nothing imports torch for the decoders of `DECODERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cl_bench.errors import nearest

if TYPE_CHECKING:
    from cl_bench.config.schema import ModelConfig

DECODERS = ("llama", "mistral", "qwen2")
"""Model types (`model_type` in config.json) whose layers and activations are known here."""
ONLY = "cl-bench trains and scores causal (decoder-only) language models"


def kind_fault(values: Mapping[str, Any], name: str) -> str | None:
    """Why the model with this config.json cannot be used, in one line; None when it can.

    Quantised weights, encoder-decoders, encoders, models whose code comes with the weights, and
    types that this version of transformers does not know or knows no causal model of.
    """
    kind = values.get("model_type")
    start = f"model.path: '{name}'"
    text = values.get("text_config") or {}
    for part in (values, text):
        if part.get("quantization_config") or part.get("compression_config"):
            return f"{start}: {_quantised(part)}"
    if values.get("is_encoder_decoder"):
        return f"{start}: {kind} is an encoder-decoder (seq2seq) model; {ONLY}"
    if kind in DECODERS:
        return None
    if not isinstance(kind, str):
        return f"{start}: its config.json has no model_type: transformers cannot tell its class"
    return _type_fault(kind, values, start)


def _quantised(part: Mapping[str, Any]) -> str:
    settings = part.get("quantization_config") or part.get("compression_config")
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    return (
        f"quantised weights (quantization_config, quant_method {method or 'not named'}) can be "
        "neither trained nor scored as they are; dequantise first: save the model in bfloat16 "
        "without quantization_config, or name the checkpoint that it was made from"
    )


def _type_fault(kind: str, values: Mapping[str, Any], start: str) -> str | None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    known = kind in CONFIG_MAPPING_NAMES
    if not known and values.get("auto_map"):
        return (
            f"{start}: model_type '{kind}' needs code that comes with the model (auto_map), and "
            "cl-bench runs only the model classes of transformers"
        )
    if not known:
        guess = nearest(kind, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        return (
            f"{start}: model_type '{kind}' is unknown to transformers {transformers.__version__}"
            f"{guess if 'did you mean' in guess else ''}"
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return f"{start}: transformers has no causal language model of type '{kind}'; {ONLY}"
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not values.get("is_decoder"):
        return (
            f"{start}: {kind} is an encoder (is_decoder is not true): every token sees what comes "
            f"after it; {ONLY}"
        )
    if values.get("use_bidirectional_attention") in (True, "all"):
        return f"{start}: use_bidirectional_attention: tokens see what comes after them; {ONLY}"
    return None


def dtype_faults(model: ModelConfig, trained: bool) -> list[str]:
    """`model.dtype` that cannot be trained in; scoring alone (`methods: [ori]`) may use it."""
    if model.dtype != "float16" or not trained:
        return []
    return [
        "model.dtype: float16 cannot be trained in: without loss scaling small gradients become 0 "
        "and large ones infinite; use bfloat16 or float32 (methods: [ori] is scored in float16)"
    ]
